# SPDX-License-Identifier: Apache-2.0
# librtfm_cuda.so: the CUDA backend, with the CUDA runtime inside. It lies beside _core or librtfm_rt.so, which
# open it where a driver answers; they themselves link nothing of CUDA.
set(RTFM_CUDA AUTO CACHE STRING "Build the CUDA backend: AUTO (where nvcc >= 13.0 is), ON or OFF")
set(RTFM_CUDA_ARCHS "80-real;89-real;90a-real;100a-real;120-real;120-virtual" CACHE STRING
    "What it is compiled for, as in CMAKE_CUDA_ARCHITECTURES")

set(RTFM_HAVE_CUDA OFF)
if(NOT RTFM_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --version OUTPUT_VARIABLE version)
    string(REGEX MATCH "release ([0-9.]+)" version "${version}")
    if(CMAKE_MATCH_1 VERSION_GREATER_EQUAL 13.0)
      set(RTFM_HAVE_CUDA ON)
    endif()
  endif()
  if(RTFM_CUDA STREQUAL "ON" AND NOT RTFM_HAVE_CUDA)
    message(FATAL_ERROR "RTFM_CUDA=ON: expected nvcc 13.0 or newer, got '${CMAKE_CUDA_COMPILER}' "
                        "${version}; set CUDACXX to one (docs/cuda.md), or RTFM_CUDA=OFF")
  endif()
endif()
message(STATUS "rtfm_rt: CUDA backend ${RTFM_HAVE_CUDA}")

if(RTFM_HAVE_CUDA)
  set(CMAKE_CUDA_ARCHITECTURES ${RTFM_CUDA_ARCHS})
  set(CMAKE_CUDA_STANDARD 17)  # CMake 3.25 knows no later one for nvcc 13
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)
  add_library(rtfm_cuda MODULE
    csrc/cuda/context.cc csrc/cuda/cubins.cc csrc/cuda/cublas.cc csrc/cuda/ops.cu csrc/cuda/plan.cc
    csrc/cuda/tensor_ops.cc)
  set(cubins ${PROJECT_SOURCE_DIR}/csrc/cuda/kernels/cubins)
  file(GLOB cubin_files CONFIGURE_DEPENDS ${cubins}/*.cubin)
  set_source_files_properties(csrc/cuda/cubins.cc PROPERTIES
    COMPILE_DEFINITIONS "RTFM_CUBINS=\"${cubins}\"" OBJECT_DEPENDS "${cubin_files}")
  set_target_properties(rtfm_cuda PROPERTIES
    CUDA_VISIBILITY_PRESET hidden LINKER_LANGUAGE CXX
    LINK_DEPENDS ${PROJECT_SOURCE_DIR}/cmake/cuda_exports.map)
  target_compile_options(rtfm_cuda PRIVATE
    $<$<COMPILE_LANGUAGE:CUDA>:-Xfatbin=-compress-all --compress-mode=size -lineinfo>)
  target_link_options(rtfm_cuda PRIVATE
    -Wl,--version-script=${PROJECT_SOURCE_DIR}/cmake/cuda_exports.map -Wl,-z,defs)
  target_link_libraries(rtfm_cuda PRIVATE CUDA::cudart_static ${CMAKE_DL_LIBS})
  if(RTFM_PYTHON)
    install(TARGETS rtfm_cuda LIBRARY DESTINATION . COMPONENT python)
  endif()
endif()
