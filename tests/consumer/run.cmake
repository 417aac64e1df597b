# Installs the build into a folder of its own and builds and runs a project against it:
#   cmake -DBUILD=<build> -DSOURCE=<consumer> -DGENERATOR=<generator> -P run.cmake
set(stage ${BUILD}/consumer_stage)
file(REMOVE_RECURSE ${stage})
function(run)
  execute_process(COMMAND ${ARGV} COMMAND_ERROR_IS_FATAL ANY)
endfunction()
run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${stage}/prefix)
run(${CMAKE_COMMAND} -G ${GENERATOR} -S ${SOURCE} -B ${stage}/build
    -DCMAKE_PREFIX_PATH=${stage}/prefix)
run(${CMAKE_COMMAND} --build ${stage}/build)
run(${stage}/build/consumer)
