# One flags target, linked by everything that thinwire builds and exported to nobody.
add_library(thinwire_flags INTERFACE)
target_compile_options(thinwire_flags INTERFACE
  "$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wpedantic;-Wshadow;-Wnon-virtual-dtor;$<$<BOOL:${THINWIRE_WERROR}>:-Werror>>"
  "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra>")
if(THINWIRE_SANITIZE)
  target_compile_options(thinwire_flags INTERFACE -fsanitize=${THINWIRE_SANITIZE}
                         -fno-sanitize-recover=all -fno-omit-frame-pointer -g)
  target_link_options(thinwire_flags INTERFACE -fsanitize=${THINWIRE_SANITIZE})
endif()

# thinwire_add_module(core SOURCES a.cpp b.cpp DEPENDS compress): an object library with the alias
# thinwire::<module>, whose public headers stand in <module>/include and whose own in <module>/src.
function(thinwire_add_module name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
  add_library(thinwire_${name} OBJECT ${ARG_SOURCES})
  add_library(thinwire::${name} ALIAS thinwire_${name})
  target_include_directories(thinwire_${name}
    PUBLIC $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/include>
    PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/src)
  target_link_libraries(thinwire_${name} PRIVATE thinwire_flags)
  foreach(dependency IN LISTS ARG_DEPENDS)
    target_include_directories(thinwire_${name} PUBLIC
      $<TARGET_PROPERTY:thinwire_${dependency},INTERFACE_INCLUDE_DIRECTORIES>)
  endforeach()
endfunction()
