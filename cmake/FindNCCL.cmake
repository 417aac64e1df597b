# Finds nccl.h alone: the library is loaded at run time, so that one build runs with the copy that
# is already in the process (PyTorch's) and without any. Sets NCCL_FOUND and the target NCCL::header.
# Hints: NCCL_HOME or NCCL_ROOT, as a variable or in the environment.
find_path(NCCL_INCLUDE_DIR nccl.h
  HINTS ${NCCL_HOME} ${NCCL_ROOT} $ENV{NCCL_HOME} $ENV{NCCL_ROOT} ${CUDAToolkit_INCLUDE_DIRS}
  PATH_SUFFIXES include)
if(NCCL_INCLUDE_DIR)
  foreach(part IN ITEMS MAJOR MINOR PATCH)
    file(STRINGS ${NCCL_INCLUDE_DIR}/nccl.h line REGEX "#define NCCL_${part} ")
    string(REGEX MATCH "[0-9]+" NCCL_${part} "${line}")
  endforeach()
  set(NCCL_VERSION ${NCCL_MAJOR}.${NCCL_MINOR}.${NCCL_PATCH})
endif()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(NCCL REQUIRED_VARS NCCL_INCLUDE_DIR VERSION_VAR NCCL_VERSION)
if(NCCL_FOUND AND NOT TARGET NCCL::header)
  add_library(NCCL::header INTERFACE IMPORTED)
  target_include_directories(NCCL::header SYSTEM INTERFACE ${NCCL_INCLUDE_DIR})
endif()
mark_as_advanced(NCCL_INCLUDE_DIR)
