// SPDX-License-Identifier: Apache-2.0
// rtfm_rt in C, for languages that C++ does not reach: give it a camera pose, get the frame seen
// from there. What calls mean stands in rtfm_rt.h; frames are copied into memory of the caller's.
//
//   rtfm_error error;
//   rtfm_model* model = rtfm_model_open("rooms.safetensors", "auto", "auto", &error);
//   rtfm_session* session = rtfm_session_new(model, NULL, &error);
//   rtfm_session_observe(session, image, pose, NULL, &error);
//   rtfm_session_step(session, pose, NULL, frame, &receipt, &error);
//
// A call that fails returns NULL, or a status that is not RTFM_OK, changes nothing, and says why in
// `error`, which may be NULL. Text is UTF-8. A pose is a row-major camera-to-world 4x4:
// right-handed, metres, camera axes x right, y down, z forward.
#ifndef RTFM_RT_C_H
#define RTFM_RT_C_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if !defined(_WIN32)
#define RTFM_C_API __attribute__((visibility("default")))
#elif defined(rtfm_rt_EXPORTS)
#define RTFM_C_API __declspec(dllexport)
#else
#define RTFM_C_API __declspec(dllimport)
#endif

typedef enum {
  RTFM_OK = 0,
  RTFM_ERROR = 1,          /* anything else, such as no memory */
  RTFM_ARGUMENT_ERROR = 2, /* an image, intrinsics or an option */
  RTFM_POSE_ERROR = 3,     /* not finite, not rigid, too far away */
  RTFM_MODEL_ERROR = 4,    /* a model file that cannot be read, or is none */
  RTFM_WORLD_ERROR = 5,    /* a session not in a state for the call, a world file */
  RTFM_DEVICE_ERROR = 6    /* a device that is unknown, missing or lost */
} rtfm_status;

typedef struct {
  rtfm_status status;
  char message[508]; /* ends with 0; what is longer is cut */
} rtfm_error;

/* The axes of a camera, and of the world where it is not right-handed. */
typedef enum {
  RTFM_OPENCV = 0,      /* x right, y down, z forward: the one of this library */
  RTFM_OPENGL = 1,      /* x right, y up, z back; Blender's and Nerfstudio's too */
  RTFM_OPENXR = 2,      /* the same */
  RTFM_ROS_OPTICAL = 3, /* x right, y down, z forward, in a world with z up */
  RTFM_ROS_BODY = 4,    /* x forward, y left, z up */
  RTFM_UNITY = 5        /* x right, y up, z forward in a left-handed world, whose y is negated */
} rtfm_convention;

typedef struct rtfm_model rtfm_model;     /* weights; any number of sessions and threads share it */
typedef struct rtfm_session rtfm_session; /* one walk through one world; one thread at a time */
typedef struct rtfm_slot rtfm_slot;       /* the newest pose, written by any thread */

typedef struct {
  const char* name; /* these live as long as the model */
  const char* device;
  const char* precision;
  const char* manifest;  /* JSON */
  int32_t images;        /* in a frame */
  int32_t height, width; /* of an image, RGB, one byte each */
  int32_t actions;       /* 0: it goes by poses */
  double intrinsics[2];  /* its own: focal lengths in units of image width and height */
  int64_t parameters;
} rtfm_model_info;

typedef struct {
  const char* name; /* lives as long as the model */
  double min, max;
} rtfm_action_range;

/* What is 0, or below 0 where 0 means something, comes from the model: see rtfm_session_new. */
typedef struct {
  uint64_t seed;
  int32_t threads, context, steps;
  int32_t sinks, recent; /* -1 */
  int64_t memory_budget; /* bytes */
  double commit_below;   /* -1 */
  double deadline;       /* seconds */
} rtfm_options;

typedef struct {
  double deadline;      /* seconds; 0: the session's */
  double intrinsics[2]; /* 0, 0: the model's */
} rtfm_step_options;

typedef struct {
  int64_t id;
  double pose[16], intrinsics[2];
  double latency; /* seconds */
  double support; /* 0 invented, 1 remembered */
  int32_t steps, late, committed;
  int32_t context_count;
  int64_t context[32]; /* ids of the remembered frames that it attended to */
} rtfm_receipt;

typedef struct {
  int64_t frames, late, committed;
  double p50, p95, p99, worst; /* seconds, of the last 1024 steps */
} rtfm_stats;

typedef struct {
  int64_t frames, bytes, budget, evicted, resident;
} rtfm_memory;

RTFM_C_API const char* rtfm_version(void);

/* Camera-to-world poses of other conventions; matrices are row-major. A pose that is refused leaves
   `pose` as it was. */
RTFM_C_API rtfm_status rtfm_pose_from_matrix(const double matrix[16], rtfm_convention convention,
                                             double pose[16], rtfm_error* error);
RTFM_C_API rtfm_status rtfm_pose_from_quaternion(const double position[3], const double xyzw[4],
                                                 rtfm_convention convention, double pose[16],
                                                 rtfm_error* error);
RTFM_C_API rtfm_status rtfm_pose_look_at(const double eye[3], const double target[3],
                                         const double up[3], double pose[16], rtfm_error* error);
RTFM_C_API rtfm_status rtfm_pose_to_matrix(const double pose[16], rtfm_convention convention,
                                           double matrix[16], rtfm_error* error);
/* horizontal: degrees; aspect: width over height. */
RTFM_C_API rtfm_status rtfm_intrinsics_from_fov(double horizontal, double aspect,
                                                double intrinsics[2], rtfm_error* error);

RTFM_C_API rtfm_model* rtfm_model_open(const char* path, const char* device, const char* precision,
                                       rtfm_error* error);
RTFM_C_API void rtfm_model_close(rtfm_model* model); /* its sessions keep what they need */
RTFM_C_API rtfm_model_info rtfm_model_describe(const rtfm_model* model);
/* index: below info.actions; else a name of NULL. */
RTFM_C_API rtfm_action_range rtfm_model_action(const rtfm_model* model, int32_t index);

RTFM_C_API rtfm_options rtfm_default_options(void);
/* options: NULL for the default ones. */
RTFM_C_API rtfm_session* rtfm_session_new(const rtfm_model* model, const rtfm_options* options,
                                          rtfm_error* error);
RTFM_C_API void rtfm_session_free(rtfm_session* session);
RTFM_C_API rtfm_session* rtfm_session_fork(rtfm_session* session, rtfm_error* error);
RTFM_C_API rtfm_status rtfm_session_save(rtfm_session* session, const char* path,
                                         rtfm_error* error);
/* options: those that are set take the place of the file's; NULL for the file's. A seed of 0 is not
 * set. */
RTFM_C_API rtfm_session* rtfm_session_load(const char* path, const rtfm_model* model,
                                           const rtfm_options* options, rtfm_error* error);

/* image: [height, width, 3]. intrinsics: NULL for the model's. */
RTFM_C_API rtfm_status rtfm_session_observe(rtfm_session* session, const uint8_t* image,
                                            const double pose[16], const double intrinsics[2],
                                            rtfm_error* error);
/* frame: [images, height, width, 3]; this and receipt may be NULL. imagine: the same, and nothing
   changes. */
RTFM_C_API rtfm_status rtfm_session_step(rtfm_session* session, const double pose[16],
                                         const rtfm_step_options* options, uint8_t* frame,
                                         rtfm_receipt* receipt, rtfm_error* error);
RTFM_C_API rtfm_status rtfm_session_imagine(rtfm_session* session, const double pose[16],
                                            const double intrinsics[2], uint8_t* frame,
                                            rtfm_receipt* receipt, rtfm_error* error);
/* The newest pose when the frame is launched. */
RTFM_C_API rtfm_status rtfm_session_step_slot(rtfm_session* session, const rtfm_slot* slot,
                                              const rtfm_step_options* options, uint8_t* frame,
                                              rtfm_receipt* receipt, rtfm_error* error);

/* Of models that go by actions: one value for each, in their order; NULL for zeros. */
RTFM_C_API rtfm_status rtfm_session_observe_act(rtfm_session* session, const uint8_t* image,
                                                const double* actions, rtfm_error* error);
RTFM_C_API rtfm_status rtfm_session_act(rtfm_session* session, const double* actions,
                                        const rtfm_step_options* options, uint8_t* frame,
                                        rtfm_receipt* receipt, rtfm_error* error);
RTFM_C_API rtfm_status rtfm_session_imagine_act(rtfm_session* session, const double* actions,
                                                uint8_t* frame, rtfm_receipt* receipt,
                                                rtfm_error* error);

RTFM_C_API rtfm_stats rtfm_session_stats(const rtfm_session* session); /* from any thread */
RTFM_C_API rtfm_status rtfm_session_memory(rtfm_session* session, rtfm_memory* memory,
                                           rtfm_error* error);
/* ids: room for `most`; returns how many were written, nearest first, or -1. */
RTFM_C_API int32_t rtfm_session_nearest(rtfm_session* session, const double pose[16], int64_t* ids,
                                        int32_t most, rtfm_error* error);
/* Share of the view that all remembered frames together have seen, or -1. */
RTFM_C_API double rtfm_session_coverage(rtfm_session* session, const double pose[16],
                                        rtfm_error* error);
/* poses: [count, 4, 4]. All or none. */
RTFM_C_API rtfm_status rtfm_session_update_poses(rtfm_session* session, const int64_t* ids,
                                                 const double* poses, int32_t count,
                                                 rtfm_error* error);

RTFM_C_API rtfm_slot* rtfm_slot_new(const double pose[16], rtfm_error* error);
RTFM_C_API void rtfm_slot_free(rtfm_slot* slot);
RTFM_C_API rtfm_status rtfm_slot_write(rtfm_slot* slot, const double pose[16], rtfm_error* error);

#ifdef __cplusplus
}
#endif
#endif /* RTFM_RT_C_H */
