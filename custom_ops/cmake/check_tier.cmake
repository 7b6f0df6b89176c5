# Fails when an object file of TIER defines a weak function outside namespace i2f::TIER. The linker keeps one copy of a weak
# function for the whole library: code compiled for AVX-512 would then run on machines without it.
#   cmake -DNM=nm -DTIER=avx2 "-DOBJECTS=a.o,b.o" -P check_tier.cmake

string(REPLACE "," ";" OBJECTS "${OBJECTS}")
execute_process(COMMAND "${NM}" --defined-only ${OBJECTS} OUTPUT_VARIABLE symbols RESULT_VARIABLE failed)
if(failed)
  message(FATAL_ERROR "${NM} failed on the objects of tier ${TIER}")
endif()
string(LENGTH "${TIER}" length)
string(REGEX MATCHALL "[^ \n]+ W [^\n]+" weak "${symbols}")
list(FILTER weak EXCLUDE REGEX "3i2f${length}${TIER}")
if(weak)
  list(JOIN weak "\n  " weak)
  message(FATAL_ERROR "Weak functions of tier ${TIER} that other tiers would share:\n  ${weak}")
endif()
