# The tiers of the kernels: instruction sets that each kernel source is compiled for once.
#
# Sets TIERS, the tiers of this build in ascending order, and EMULATED_TIERS, and defines use_tier(target tier), which
# gives a target the definitions and options of a tier. Of each tier, TIER_<tier>_BASE names the tier whose kernels it shares,
# but for those of narrow numbers. Writes tiers.h, from which ops/dispatch.cc learns the same.

option(I2F_EMULATE "Tests only: compile tiers that this machine lacks for the best that it has, so that their code runs here" OFF)

include(CheckCXXSourceCompiles)

# Features are named as /proc/cpuinfo does. ops/dispatch.cc asks the machine for the same.
function(describe_tier name vector_bytes vector_registers)
  cmake_parse_arguments(PARSE_ARGV 3 tier "" BASE "FLAGS;FEATURES;DOTS")
  set(TIER_${name}_VECTOR I2F_VECTOR_BYTES=${vector_bytes} I2F_VECTOR_REGISTERS=${vector_registers} PARENT_SCOPE)
  set(TIER_${name}_BASE "${tier_BASE}" PARENT_SCOPE)
  set(TIER_${name}_FLAGS ${tier_FLAGS} PARENT_SCOPE)
  set(TIER_${name}_FEATURES ${tier_FEATURES} PARENT_SCOPE)
  set(TIER_${name}_DOTS ${tier_DOTS} PARENT_SCOPE)  # instructions that kernels/dot.h names: what tests/instructions.h models
endfunction()

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$" AND CMAKE_SIZEOF_VOID_P EQUAL 8)
  set(AVX2_FLAGS -mavx2 -mfma -mbmi -mbmi2)
  set(AVX2_FEATURES avx2 fma bmi1 bmi2)
  set(AVX512_FLAGS
    ${AVX2_FLAGS} -mavx512f -mavx512bw -mavx512cd -mavx512dq -mavx512vl -mprefer-vector-width=512)
  set(AVX512_FEATURES ${AVX2_FEATURES} avx512f avx512bw avx512cd avx512dq avx512vl)
  describe_tier(portable 16 16)
  describe_tier(avx2 32 16 FLAGS ${AVX2_FLAGS} FEATURES ${AVX2_FEATURES})
  describe_tier(avx512 64 32 FLAGS ${AVX512_FLAGS} FEATURES ${AVX512_FEATURES})
  describe_tier(avx512vnni 64 32 BASE avx512
    FLAGS ${AVX512_FLAGS} -mavx512vnni FEATURES ${AVX512_FEATURES} avx512_vnni DOTS I2F_BYTE_DOTS)
  describe_tier(avx512bf16 64 32 BASE avx512
    FLAGS ${AVX512_FLAGS} -mavx512vnni -mavx512bf16 FEATURES ${AVX512_FEATURES} avx512_vnni avx512_bf16
    DOTS I2F_BYTE_DOTS I2F_BFLOAT16_DOTS)
  set(_all_tiers portable avx2 avx512 avx512vnni avx512bf16)
else()
  describe_tier(portable 16 32)
  set(_all_tiers portable)
endif()

# What this machine has, read without asking our own code. Only test builds look.
function(machine_has result)
  file(STRINGS /proc/cpuinfo _lines REGEX "^flags[ \t]*:" LIMIT_COUNT 1)
  string(REGEX REPLACE "[ \t]+" ";" _flags "${_lines}")
  set(${result} TRUE PARENT_SCOPE)
  foreach(feature IN LISTS ARGN)
    if(NOT feature IN_LIST _flags)
      set(${result} FALSE PARENT_SCOPE)
    endif()
  endforeach()
endfunction()

# Each tier asks for more than the one before: the first that the compiler, or in test builds the machine, lacks ends the list.
set(TIERS "")
set(EMULATED_TIERS "")
set(_best_here portable)
set(_entries "")
foreach(tier IN LISTS _all_tiers)
  set(_has TRUE)
  if(I2F_EMULATE)
    machine_has(_has ${TIER_${tier}_FEATURES})
  endif()
  if(NOT _has)
    list(APPEND EMULATED_TIERS ${tier})
    string(APPEND _entries " X(${tier}, always)")
    list(APPEND TIERS ${tier})
    continue()
  endif()
  if(TIER_${tier}_FLAGS)
    list(JOIN TIER_${tier}_FLAGS " " CMAKE_REQUIRED_FLAGS)
    check_cxx_source_compiles("#include <immintrin.h>\nint main() { return 0; }" I2F_COMPILES_${tier})
    unset(CMAKE_REQUIRED_FLAGS)
    if(NOT I2F_COMPILES_${tier})
      message(WARNING
        "${CMAKE_CXX_COMPILER} (${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}) cannot compile the tier ${tier}: the library, "
        "and a wheel made of it, lacks this tier and those above it, and is slower on machines that have them. "
        "GCC 10 or Clang 9, or newer, compiles all tiers.")
      break()
    endif()
    string(APPEND _entries " X(${tier}, has_${tier})")
  else()
    string(APPEND _entries " X(${tier}, always)")
  endif()
  set(_best_here ${tier})
  list(APPEND TIERS ${tier})
endforeach()
message(STATUS "tiers: ${TIERS}")
if(EMULATED_TIERS)
  message(STATUS "tiers that this machine lacks, compiled for ${_best_here}: ${EMULATED_TIERS}")
endif()
set(TIERS_HEADER_FOLDER "${CMAKE_CURRENT_BINARY_DIR}/generated")
file(CONFIGURE OUTPUT "${TIERS_HEADER_FOLDER}/tiers.h" CONTENT
"// Written by CMake. The tiers of this build in ascending order, each with what tells whether it runs.
#define I2F_TIERS(X)@_entries@
" @ONLY)

function(use_tier target tier)
  target_compile_definitions(${target} PRIVATE I2F_TIER=${tier} ${TIER_${tier}_VECTOR})
  if(tier IN_LIST EMULATED_TIERS)
    target_compile_definitions(${target} PRIVATE I2F_EMULATED ${TIER_${tier}_DOTS})
    target_compile_options(${target} PRIVATE ${TIER_${_best_here}_FLAGS})
  else()
    target_compile_options(${target} PRIVATE ${TIER_${tier}_FLAGS})
  endif()
endfunction()
