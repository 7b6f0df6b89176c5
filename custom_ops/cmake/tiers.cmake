# The tiers of this build, from tiers.txt: instruction sets that kernel sources are compiled for once each.
#
# Sets TIERS, the tiers of this build in ascending order, EMULATED_TIERS, and TIER_<tier>_BASE, the tier whose kernels a
# tier shares but for those of reduced precision. Defines use_tier(target tier), which gives a target the definitions and
# options of a tier. Writes tiers.h, from which ops/dispatch.h learns the same.

option(I2F_EMULATE "Tests only: compile tiers that this machine lacks for the best that it has, so that their code runs here" OFF)

include(CheckCXXSourceCompiles)
include(CheckCXXSourceRuns)

set(TIERS_TABLE "${CMAKE_CURRENT_SOURCE_DIR}/tiers.txt")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${TIERS_TABLE}")
file(STRINGS "${TIERS_TABLE}" _rows REGEX "^[a-z]")
if(NOT (CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$" AND CMAKE_SIZEOF_VOID_P EQUAL 8))
  set(_rows "portable 16 32 -")  # there are more registers elsewhere
endif()

set(TIERS "")
set(EMULATED_TIERS "")
set(_best_here "")  # the last tier that this build does not emulate
set(_features "")
set(_entries "")
foreach(_row IN LISTS _rows)
  string(REGEX REPLACE " +" ";" _row "${_row}")
  list(POP_FRONT _row tier _bytes _registers _base)
  list(APPEND _features ${_row})
  list(TRANSFORM _features PREPEND -m OUTPUT_VARIABLE _flags)
  list(TRANSFORM _features REPLACE "(.+)" "__builtin_cpu_supports(\"\\1\")" OUTPUT_VARIABLE _asked)
  list(JOIN _asked " && " _supported)
  if(_supported STREQUAL "")
    set(_supported true)
  endif()
  if(_bytes EQUAL 64)
    list(APPEND _flags -mprefer-vector-width=512)
  endif()

  # The first tier that the compiler, or in test builds the machine, lacks ends the list.
  set(CMAKE_REQUIRED_FLAGS "${_flags}")
  list(JOIN _flags " " CMAKE_REQUIRED_FLAGS)
  set(_emulated FALSE)
  if(I2F_EMULATE)
    check_cxx_source_runs("int main() { return !(${_supported}); }" I2F_MACHINE_HAS_${tier})
    if(NOT I2F_MACHINE_HAS_${tier})
      set(_emulated TRUE)
    endif()
  endif()
  if(NOT _emulated AND _features)
    check_cxx_source_compiles("#include <immintrin.h>\nint main() { return 0; }" I2F_COMPILES_${tier})
    if(NOT I2F_COMPILES_${tier})
      message(WARNING
        "${CMAKE_CXX_COMPILER} (${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}) cannot compile the tier ${tier}: the library, "
        "and a wheel made of it, lacks this tier and those above it, and is slower on machines that have them. "
        "GCC 10 or Clang 9, or newer, compiles all tiers.")
      break()
    endif()
  endif()
  unset(CMAKE_REQUIRED_FLAGS)

  list(APPEND TIERS ${tier})
  set(TIER_${tier}_DEFINITIONS I2F_TIER=${tier} I2F_VECTOR_BYTES=${_bytes} I2F_VECTOR_REGISTERS=${_registers})
  if(_emulated)
    list(APPEND EMULATED_TIERS ${tier})
    set(_supported true)
    set(TIER_${tier}_FLAGS ${TIER_${_best_here}_FLAGS})
    list(APPEND TIER_${tier}_DEFINITIONS I2F_EMULATED)
    foreach(_feature IN LISTS _features)
      list(APPEND TIER_${tier}_DEFINITIONS I2F_EMULATED_${_feature})
    endforeach()
  else()
    set(TIER_${tier}_FLAGS ${_flags})
    set(_best_here ${tier})
  endif()
  if(_base STREQUAL "-")
    set(TIER_${tier}_BASE "")
    string(APPEND _entries " \\\n  X(${tier}, ${tier}, (${_supported}), __VA_ARGS__)")
  else()
    set(TIER_${tier}_BASE ${_base})
    string(APPEND _entries " \\\n  X(${tier}, ${_base}, (${_supported}), __VA_ARGS__)")
  endif()
endforeach()
message(STATUS "tiers: ${TIERS}")
if(EMULATED_TIERS)
  message(STATUS "tiers that this machine lacks, compiled for ${_best_here}: ${EMULATED_TIERS}")
endif()
set(TIERS_HEADER_FOLDER "${CMAKE_CURRENT_BINARY_DIR}/generated")
file(CONFIGURE OUTPUT "${TIERS_HEADER_FOLDER}/tiers.h" CONTENT
"// Written by CMake. X(tier, tier of all kernels but those of reduced precision, whether it runs on this machine, ...)
// for each tier of this build, in ascending order.
#define I2F_TIERS(X, ...)@_entries@
" @ONLY)

function(use_tier target tier)
  target_compile_definitions(${target} PRIVATE ${TIER_${tier}_DEFINITIONS})
  target_compile_options(${target} PRIVATE ${TIER_${tier}_FLAGS})
endfunction()
