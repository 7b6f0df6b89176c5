# Sets ONNXRUNTIME_HEADERS to the folder of onnxruntime_c_api.h: the one that ONNXRUNTIME_INCLUDE_DIR (a CMake variable or
# an environment variable) names, else the system's, else one that fetch_headers.py downloads. Only headers are needed.

set(ONNXRUNTIME_INCLUDE_DIR "$ENV{ONNXRUNTIME_INCLUDE_DIR}" CACHE PATH "folder of onnxruntime_c_api.h")

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
  find_program(I2F_PYTHON NAMES python3 python REQUIRED)
  message(STATUS "onnxruntime headers: not installed, fetching them")
  execute_process(
    COMMAND "${I2F_PYTHON}" "${CMAKE_CURRENT_LIST_DIR}/fetch_headers.py"
    OUTPUT_VARIABLE ONNXRUNTIME_HEADERS ERROR_VARIABLE _reasons RESULT_VARIABLE _failed OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(_failed)
    message(FATAL_ERROR
      "The onnxruntime C headers are neither installed nor could they be fetched. Any of these helps:\n"
      "  - install the package libonnxruntime-dev (Debian 13 or later, recent Ubuntu)\n"
      "  - unpack an official onnxruntime release archive and name its include folder:\n"
      "    export ONNXRUNTIME_INCLUDE_DIR=/path/to/onnxruntime/include\n"
      "  - build where the Debian mirror or github.com can be reached\n"
      "What was tried:\n${_reasons}")
  endif()
endif()
message(STATUS "onnxruntime headers: ${ONNXRUNTIME_HEADERS}")
