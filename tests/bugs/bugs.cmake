# -DUTHIN_BUGS=ON: the libraries are built from copies of a few sources that hold the deliberate bugs
# of tests/bugs, chosen at run time by UTHIN_BUG=n. The sources themselves stay as they are.
find_package(Python3 REQUIRED COMPONENTS Interpreter)
set(UTHIN_BUGGY ${CMAKE_BINARY_DIR}/buggy)
execute_process(
  COMMAND ${Python3_EXECUTABLE} ${CMAKE_SOURCE_DIR}/tests/bugs/bank.py write ${CMAKE_SOURCE_DIR} ${UTHIN_BUGGY}
  OUTPUT_VARIABLE buggy_files OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
string(REPLACE "\n" ";" UTHIN_BUGGY_FILES "${buggy_files}")
# An edit of a list or of a source makes the copies anew.
file(GLOB banks CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/bugs/*.toml)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${banks} ${CMAKE_SOURCE_DIR}/tests/bugs/bank.py)
foreach(path ${UTHIN_BUGGY_FILES})
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${path})
endforeach()

# Replaces sources of a layer by their copies. A header with bugs is one of its layer alone.
function(uthin_plant_bugs layer)
  get_target_property(sources uthin_${layer} SOURCES)
  foreach(path ${UTHIN_BUGGY_FILES})
    list(FIND sources ${CMAKE_SOURCE_DIR}/${path} at)
    if(at GREATER_EQUAL 0)
      list(REMOVE_AT sources ${at})
      list(APPEND sources ${UTHIN_BUGGY}/${path})
      # A bug may leave something unused.
      set_source_files_properties(${UTHIN_BUGGY}/${path} PROPERTIES COMPILE_OPTIONS "-Wno-error")
    elseif(path MATCHES "^src/${layer}/.*\\.h$")
      target_include_directories(uthin_${layer} BEFORE PRIVATE ${UTHIN_BUGGY}/src)
    endif()
  endforeach()
  set_target_properties(uthin_${layer} PROPERTIES SOURCES "${sources}")
endfunction()
