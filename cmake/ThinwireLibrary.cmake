# libthinwire.so: the object libraries of all modules in one shared library.
add_library(thinwire SHARED)
add_library(thinwire::thinwire ALIAS thinwire)
set_target_properties(thinwire PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR})
target_link_options(thinwire PRIVATE
  -Wl,--version-script=${PROJECT_SOURCE_DIR}/cmake/thinwire.map)
if(NOT THINWIRE_SANITIZE)  # clang leaves a sanitizer's functions to the program
  target_link_options(thinwire PRIVATE -Wl,--no-undefined)
endif()
set_target_properties(thinwire PROPERTIES LINK_DEPENDS ${PROJECT_SOURCE_DIR}/cmake/thinwire.map)
foreach(module IN LISTS modules)
  target_sources(thinwire PRIVATE $<TARGET_OBJECTS:thinwire_${module}>)
  target_include_directories(thinwire PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/${module}/include>)
endforeach()
target_include_directories(thinwire PUBLIC
  $<BUILD_INTERFACE:${PROJECT_BINARY_DIR}/core/include> $<INSTALL_INTERFACE:include>)
target_compile_features(thinwire PUBLIC cxx_std_20)
target_link_libraries(thinwire PRIVATE thinwire_flags Threads::Threads fmt::fmt spdlog::spdlog
                      nlohmann_json::nlohmann_json hwy::hwy ${CMAKE_DL_LIBS})
if(THINWIRE_HAVE_CUDA)
  # Static, so that the library also loads where there is no CUDA; the driver is looked up at run time.
  target_link_libraries(thinwire PRIVATE CUDA::cudart_static)
  set_target_properties(thinwire PROPERTIES LINKER_LANGUAGE CXX)
endif()
