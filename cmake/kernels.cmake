# Kernel files with instruction sets of their own. Each is reached through a table that
# core/cpu/gemm_dispatch.cpp fills only on machines that have the instructions. (GCC 12 takes its own
# "undefined" placeholder in the AVX-512 intrinsics for an uninitialised variable: that warning is off.)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set_source_files_properties(${CMAKE_SOURCE_DIR}/core/cpu/gemm_avx512.cpp PROPERTIES COMPILE_OPTIONS
    "-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mprefer-vector-width=512;-Wno-maybe-uninitialized;-Wno-uninitialized")
endif()
