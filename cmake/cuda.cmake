# The CUDA kernels: pm_cuda, one object library linked into every program of the build.
#
# Files named *hopper*.cu hold wgmma and TMA code, guarded so that a kernel is empty for any other
# architecture than 90a; every kernel there has a portable one beside it. So a build takes 90 or 90a:
# of both, a Hopper card might load the one whose kernels are empty.
if("90" IN_LIST PYRAMOE_CUDA_ARCHITECTURES AND "90a" IN_LIST PYRAMOE_CUDA_ARCHITECTURES)
  message(FATAL_ERROR "PYRAMOE_CUDA_ARCHITECTURES is ${PYRAMOE_CUDA_ARCHITECTURES}: expected 90a "
    "(Hopper with all its kernels) or 90 (Hopper with the portable ones), not both; leave one out")
endif()
list(TRANSFORM PYRAMOE_CUDA_ARCHITECTURES APPEND "-real" OUTPUT_VARIABLE CMAKE_CUDA_ARCHITECTURES)
enable_language(CUDA)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake below 3.26 does not know nvcc's C++20
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
endif()
set(CMAKE_CUDA_STANDARD 20)
find_package(CUDAToolkit REQUIRED)
if(CCACHE)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE})
endif()

file(GLOB cuda_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/cuda/*.cu ${CMAKE_SOURCE_DIR}/cuda/*.cpp)
add_library(pm_cuda OBJECT ${cuda_sources})
target_include_directories(pm_cuda PRIVATE ${CMAKE_SOURCE_DIR})
target_compile_definitions(pm_cuda PRIVATE $<$<CONFIG:Release>:NDEBUG>)
set(cuda_werror $<$<BOOL:${PYRAMOE_WERROR}>:-Werror=all-warnings>)
target_compile_options(pm_cuda PRIVATE
  $<$<COMPILE_LANGUAGE:CUDA>:-lineinfo --expt-relaxed-constexpr ${cuda_werror}
    -Xcompiler=-Wall,-Wextra,-Wshadow>
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wshadow $<$<BOOL:${PYRAMOE_WERROR}>:-Werror>>)
if(NOT "90a" IN_LIST PYRAMOE_CUDA_ARCHITECTURES)
  target_compile_definitions(pm_cuda PRIVATE PYRAMOE_NO_HOPPER)
endif()
target_link_libraries(pm_cuda PUBLIC CUDA::cudart_static CUDA::cublas CUDA::cublasLt)
string(REPLACE ";" " " built_for "${PYRAMOE_CUDA_ARCHITECTURES}")
set_source_files_properties(${CMAKE_SOURCE_DIR}/tests/gpu/disassembly_test.cpp PROPERTIES
  COMPILE_DEFINITIONS "PYRAMOE_BUILT_FOR=\"${built_for}\"")

# cuda/workshop/X.cu is a program of its own, workshop_X: a kernel from naive to fast. `make gpu`
# builds them.
file(GLOB workshop_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/cuda/workshop/*.cu)
add_custom_target(workshop)
get_target_property(cuda_options pm_cuda COMPILE_OPTIONS)
foreach(source ${workshop_sources})
  get_filename_component(name ${source} NAME_WE)
  add_executable(workshop_${name} EXCLUDE_FROM_ALL ${source} $<TARGET_OBJECTS:pm_core>
    $<TARGET_OBJECTS:pm_cuda>)
  target_include_directories(workshop_${name} PRIVATE ${CMAKE_SOURCE_DIR})
  target_compile_options(workshop_${name} PRIVATE ${cuda_options})
  target_compile_definitions(workshop_${name} PRIVATE PYRAMOE_CUDA)
  target_link_libraries(workshop_${name} PRIVATE CUDA::cudart_static CUDA::cublas CUDA::cublasLt
    fmt::fmt Threads::Threads)
  set_target_properties(workshop_${name} PROPERTIES LINKER_LANGUAGE CXX)
  add_dependencies(workshop workshop_${name})
endforeach()

target_compile_definitions(pyramoe_flags INTERFACE PYRAMOE_CUDA)
target_link_libraries(pyramoe_flags INTERFACE CUDA::cudart_static CUDA::cublas CUDA::cublasLt)
message(STATUS "CUDA: ${CMAKE_CUDA_COMPILER_VERSION}, built for ${PYRAMOE_CUDA_ARCHITECTURES}")
