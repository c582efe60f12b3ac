# Kernel files with compile flags of their own.
#
# In all of core/cpu's products and attention an operation is rounded where it is written: two forms
# of a kernel that must give the same bits may not be fused differently by the compiler.
file(GLOB exact_sources ${CMAKE_SOURCE_DIR}/core/cpu/gemm*.cpp)
list(APPEND exact_sources ${CMAKE_SOURCE_DIR}/core/cpu/matmul.cpp
  ${CMAKE_SOURCE_DIR}/core/cpu/attention.cpp)
set_source_files_properties(${exact_sources} PROPERTIES COMPILE_OPTIONS "-ffp-contract=off")

# AVX-512 is reached through a table that core/cpu/gemm_dispatch.cpp hands out only on machines that
# have it. (GCC 12 takes its own "undefined" placeholder in these intrinsics for an uninitialised
# variable: that warning is off.)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set_source_files_properties(${CMAKE_SOURCE_DIR}/core/cpu/gemm_avx512.cpp PROPERTIES COMPILE_OPTIONS
    "-ffp-contract=off;-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mprefer-vector-width=512;-Wno-maybe-uninitialized;-Wno-uninitialized")
endif()
