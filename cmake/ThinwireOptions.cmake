# Options of the build. AUTO uses what is found, ON demands it, OFF leaves it out.
foreach(feature IN ITEMS CUDA NCCL MPI)
  set(THINWIRE_WITH_${feature} "AUTO" CACHE STRING "Build with ${feature}: AUTO, ON or OFF")
  set_property(CACHE THINWIRE_WITH_${feature} PROPERTY STRINGS AUTO ON OFF)
  if(NOT THINWIRE_WITH_${feature} MATCHES "^(AUTO|ON|OFF)$")
    message(FATAL_ERROR "THINWIRE_WITH_${feature} is '${THINWIRE_WITH_${feature}}'; use AUTO, ON or OFF")
  endif()
endforeach()

# pip wants the Python module alone, unless the build folder has been configured for more.
set(build_programs ON)
if(SKBUILD OR NOT PROJECT_IS_TOP_LEVEL)
  set(build_programs OFF)
endif()
option(THINWIRE_BUILD_TESTS "Build the tests" ${build_programs})
option(THINWIRE_BUILD_EXAMPLES "Build the examples" ${build_programs})
option(THINWIRE_BUILD_BENCH "Build the benchmarks" ${build_programs})
option(THINWIRE_BUILD_PYTHON "Build the Python module; needs pybind11 3 (pip install . does it)" OFF)
option(THINWIRE_BUILD_FUZZERS "Build the fuzz targets instead of the tests; needs clang (preset fuzz)" OFF)
option(THINWIRE_NATIVE_SIMD "Compile the codecs for this machine's best SIMD target alone" OFF)
option(THINWIRE_WERROR "Treat warnings as errors" OFF)
set(THINWIRE_SANITIZE "" CACHE STRING "Sanitizers for every target, e.g. address,undefined")

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/bin")
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/lib")

# thinwire_find(MPI MPI COMPONENTS CXX) honours THINWIRE_WITH_MPI and sets THINWIRE_HAVE_MPI.
macro(thinwire_find feature package)
  set(THINWIRE_HAVE_${feature} OFF)
  if(NOT THINWIRE_WITH_${feature} STREQUAL "OFF")
    find_package(${package} ${ARGN} QUIET)
    if(${package}_FOUND)
      set(THINWIRE_HAVE_${feature} ON)
    elseif(THINWIRE_WITH_${feature} STREQUAL "ON")
      message(FATAL_ERROR "THINWIRE_WITH_${feature}=ON, but ${package} was not found")
    endif()
  endif()
endmacro()

thinwire_find(MPI MPI COMPONENTS CXX)

# CUDA is a language: nvcc is what is looked for, a GPU is not needed to build.
set(THINWIRE_HAVE_CUDA OFF)
if(NOT THINWIRE_WITH_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
      set(CMAKE_CUDA_ARCHITECTURES 80-real 90-real 100 CACHE STRING
          "GPUs to compile for; the last one also as PTX")
    endif()
    enable_language(CUDA)
    find_package(CUDAToolkit REQUIRED)
    set(CMAKE_CUDA_STANDARD 20)
    if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know it of nvcc 12 and later
      set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
      set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
    endif()
    set(CMAKE_CUDA_STANDARD_REQUIRED ON)
    set(THINWIRE_HAVE_CUDA ON)
  elseif(THINWIRE_WITH_CUDA STREQUAL "ON")
    message(FATAL_ERROR "THINWIRE_WITH_CUDA=ON, but no CUDA compiler (nvcc) was found; set CUDACXX")
  else()
    message(STATUS "thinwire: no CUDA compiler (nvcc): building for CPUs alone")
  endif()
endif()

# NCCL's header needs CUDA's; the library itself is found at run time.
set(THINWIRE_HAVE_NCCL OFF)
if(THINWIRE_HAVE_CUDA)
  thinwire_find(NCCL NCCL 2.18)
elseif(THINWIRE_WITH_NCCL STREQUAL "ON")
  message(FATAL_ERROR "THINWIRE_WITH_NCCL=ON needs CUDA")
endif()

function(thinwire_print_configuration)
  message(STATUS "thinwire ${PROJECT_VERSION}: ${CMAKE_BUILD_TYPE}, MPI ${THINWIRE_HAVE_MPI}, "
                 "CUDA ${THINWIRE_HAVE_CUDA}, NCCL ${THINWIRE_HAVE_NCCL}, "
                 "tests ${THINWIRE_BUILD_TESTS}, sanitizers '${THINWIRE_SANITIZE}'")
endfunction()
