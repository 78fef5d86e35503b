# SPDX-License-Identifier: Apache-2.0
# librtfm_rt.so: the APIs of cpp/rtfm_rt.h and cpp/rtfm_rt_c.h, installed as the CMake package rtfm_rt.
if(RTFM_PYTHON)  # a build for tests: within the Python package
  set(RTFM_PREFIX _cpp/)
  set(RTFM_COMPONENT python)
else()
  set(RTFM_PREFIX "")
  set(RTFM_COMPONENT cpp)
endif()

# World files: Python has a SQLite of its own.
add_library(rtfm_world STATIC
  src/digest.cc src/sqlite.cc src/world_file.cc src/world_format.cc src/world_load.cc)
target_link_libraries(rtfm_world PUBLIC rtfm)

add_library(rtfm_rt SHARED cpp/c_api.cc cpp/model.cc cpp/pose.cc cpp/session.cc)
add_library(rtfm_rt::rtfm_rt ALIAS rtfm_rt)
target_compile_features(rtfm_rt PUBLIC cxx_std_20)
target_compile_definitions(rtfm_rt PRIVATE RTFM_VERSION="${PROJECT_VERSION}")
target_include_directories(rtfm_rt INTERFACE $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/cpp>
                                             $<INSTALL_INTERFACE:${RTFM_PREFIX}include>)
target_link_libraries(rtfm_rt PRIVATE rtfm_world)
set_target_properties(rtfm_rt PROPERTIES
  VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
if(WIN32)
  set_target_properties(rtfm_rt PROPERTIES PREFIX "" IMPORT_PREFIX "")
  target_link_options(rtfm_rt PRIVATE -static)  # the compiler's libraries come along
elseif(NOT APPLE)
  set(exports ${PROJECT_SOURCE_DIR}/cmake/cpp_exports.map)
  target_link_options(rtfm_rt PRIVATE -Wl,--version-script=${exports} -Wl,-z,defs)
  set_target_properties(rtfm_rt PROPERTIES LINK_DEPENDS ${exports})
endif()

include(CMakePackageConfigHelpers)
include(GNUInstallDirs)
set(libraries ${RTFM_PREFIX}${CMAKE_INSTALL_LIBDIR})
set(package ${libraries}/cmake/rtfm_rt)
install(TARGETS rtfm_rt EXPORT rtfm_rt
        LIBRARY DESTINATION ${libraries} COMPONENT ${RTFM_COMPONENT}
        ARCHIVE DESTINATION ${libraries} COMPONENT ${RTFM_COMPONENT}  # on Windows: what a linker reads
        RUNTIME DESTINATION ${RTFM_PREFIX}bin COMPONENT ${RTFM_COMPONENT})
install(FILES cpp/rtfm_rt.h cpp/rtfm_rt_c.h DESTINATION ${RTFM_PREFIX}include COMPONENT ${RTFM_COMPONENT})
if(NOT RTFM_PYTHON)
  install(FILES python/rtfm_rt/models/rooms.safetensors DESTINATION share/rtfm_rt COMPONENT cpp)
endif()
if(RTFM_HAVE_CUDA)
  install(TARGETS rtfm_cuda LIBRARY DESTINATION ${libraries} COMPONENT ${RTFM_COMPONENT})
endif()
# the exported targets are all that there is to configure
install(EXPORT rtfm_rt NAMESPACE rtfm_rt:: FILE rtfm_rt-config.cmake DESTINATION ${package}
        COMPONENT ${RTFM_COMPONENT})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/rtfm_rt-config-version.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/rtfm_rt-config-version.cmake DESTINATION ${package}
        COMPONENT ${RTFM_COMPONENT})
