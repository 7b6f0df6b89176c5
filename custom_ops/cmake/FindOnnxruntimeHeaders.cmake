# Sets ONNXRUNTIME_HEADERS to the folder of onnxruntime_c_api.h: the one that ONNXRUNTIME_INCLUDE_DIR (a CMake variable or
# an environment variable) names, else the system's, else that of a Debian package with a known hash, which is downloaded
# once and kept in the user's cache folder. Only the header is needed, never the library.

set(ONNXRUNTIME_INCLUDE_DIR "$ENV{ONNXRUNTIME_INCLUDE_DIR}" CACHE PATH "folder of onnxruntime_c_api.h")
set(_package libonnxruntime-dev_1.21.0+dfsg-1_amd64.deb)
set(_package_hash 14f7d959d5deacbcf1504830d4189f91fc67382b399ed9ae9d3aa9c4050ced08)
set(_mirrors http://deb.debian.org/debian https://snapshot.debian.org/archive/debian/20250601T000000Z)

set(_only_there "")
if(ONNXRUNTIME_INCLUDE_DIR)
  set(_only_there NO_DEFAULT_PATH)
endif()
unset(ONNXRUNTIME_HEADERS CACHE)  # an earlier answer does not outlive the question
find_path(ONNXRUNTIME_HEADERS onnxruntime_c_api.h
  PATHS ${ONNXRUNTIME_INCLUDE_DIR} PATH_SUFFIXES onnxruntime onnxruntime/core/session include include/onnxruntime ${_only_there})

if(NOT ONNXRUNTIME_HEADERS AND ONNXRUNTIME_INCLUDE_DIR)
  message(FATAL_ERROR "ONNXRUNTIME_INCLUDE_DIR: no onnxruntime_c_api.h in ${ONNXRUNTIME_INCLUDE_DIR}")
endif()

if(NOT ONNXRUNTIME_HEADERS)
  set(_cache "$ENV{XDG_CACHE_HOME}")
  if(NOT IS_ABSOLUTE "${_cache}")
    set(_cache "$ENV{HOME}/.cache")
  endif()
  set(_cached "${_cache}/inter2former-deploy/${_package}")
  set(_reasons "")
  foreach(_mirror IN LISTS _mirrors)
    set(_hash "")
    if(EXISTS "${_cached}")
      file(SHA256 "${_cached}" _hash)
    endif()
    if(NOT _hash STREQUAL _package_hash)
      message(STATUS "onnxruntime headers: not installed, downloading them from ${_mirror}")
      set(_downloaded "${CMAKE_CURRENT_BINARY_DIR}/${_package}")
      file(DOWNLOAD "${_mirror}/pool/main/o/onnxruntime/${_package}" "${_downloaded}" TIMEOUT 60 STATUS _status)
      if(EXISTS "${_downloaded}")
        file(SHA256 "${_downloaded}" _hash)
      endif()
      if(_hash STREQUAL _package_hash)
        file(MAKE_DIRECTORY "${_cache}/inter2former-deploy")
        file(RENAME "${_downloaded}" "${_cached}")
      else()
        string(APPEND _reasons "  - ${_mirror}: ${_status}, SHA-256 ${_hash}\n")
      endif()
    endif()
  endforeach()
  if(NOT _hash STREQUAL _package_hash)
    message(FATAL_ERROR
      "The onnxruntime C header is neither installed nor could it be downloaded. Any of these helps:\n"
      "  - install the package libonnxruntime-dev (Debian 13 or later, recent Ubuntu)\n"
      "  - unpack an official onnxruntime release archive and name its include folder:\n"
      "    export ONNXRUNTIME_INCLUDE_DIR=/path/to/onnxruntime/include\n"
      "  - build where one of the mirrors below can be reached\n"
      "What was tried, and a file with the SHA-256 ${_package_hash} was expected:\n${_reasons}")
  endif()
  set(_unpacked "${CMAKE_CURRENT_BINARY_DIR}/onnxruntime")
  file(ARCHIVE_EXTRACT INPUT "${_cached}" DESTINATION "${_unpacked}")
  file(ARCHIVE_EXTRACT INPUT "${_unpacked}/data.tar.xz" DESTINATION "${_unpacked}" PATTERNS "*/onnxruntime_*.h")
  set(ONNXRUNTIME_HEADERS "${_unpacked}/usr/include/onnxruntime" CACHE PATH "" FORCE)
endif()
message(STATUS "onnxruntime headers: ${ONNXRUNTIME_HEADERS}")
