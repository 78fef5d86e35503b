// SPDX-License-Identifier: Apache-2.0
// rtfm_rt, a runtime for real-time frame models: give it a camera pose, get the frame seen from
// there.
//
//   rtfm_rt::Session session(rtfm_rt::Model("rooms.safetensors"));
//   session.observe(image, pose);                     // a real frame enters the world
//   const rtfm_rt::Frame frame = session.step(pose);  // the frame seen from `pose`
//
// What is refused throws one of the errors below and leaves the session as it was. A session whose
// memory or device gives out in the middle of a change (std::bad_alloc, DeviceError) is lost, and
// throws a WorldError that says so at every later call; its branches go on. The library prints
// nothing, never aborts, and reads no environment variables.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#if !defined(_WIN32)
#define RTFM_RT_API [[gnu::visibility("default")]]
#elif defined(rtfm_rt_EXPORTS)
#define RTFM_RT_API [[gnu::dllexport]]
#else
#define RTFM_RT_API [[gnu::dllimport]]
#endif

namespace rtfm_rt {

class RTFM_RT_API Error : public std::runtime_error {  // anything that is refused
  using std::runtime_error::runtime_error;
};
class RTFM_RT_API ArgumentError : public Error {  // an image, intrinsics or an option
  using Error::Error;
};
class RTFM_RT_API PoseError : public ArgumentError {  // not finite, not rigid, too far away
  using ArgumentError::ArgumentError;
};
class RTFM_RT_API ModelError : public Error {  // a model file that cannot be read, or is none
  using Error::Error;
};
class RTFM_RT_API WorldError
    : public Error {  // a session not in a state for the call, a world file
  using Error::Error;
};
class RTFM_RT_API DeviceError : public Error {  // a device that is unknown, missing or lost
  using Error::Error;
};

using Vector = std::array<double, 3>;
using Quaternion = std::array<double, 4>;  // x, y, z, w but for COLMAP's
using Matrix = std::array<double, 16>;     // 4x4, row-major

// The axes of a camera, and of the world where it is not right-handed.
enum class Convention {
  kOpenCv,      // x right, y down, z forward: the one of this library
  kOpenGl,      // x right, y up, z back; Blender's and Nerfstudio's too
  kOpenXr,      // the same
  kRosOptical,  // x right, y down, z forward, in a world with z up
  kRosBody,     // x forward, y left, z up
  kUnity,       // x right, y up, z forward in a left-handed world, whose y is negated
};
enum class Direction { kCameraToWorld, kWorldToCamera };

// Where a camera stands: camera-to-world, right-handed, metres; camera axes x right, y down,
// z forward. What takes one accepts |RᵀR - I| <= 1e-3 (Frobenius) and removes that error; anything
// not finite, rigid or within 1e6 m of the origin is a PoseError.
struct RTFM_RT_API Pose {
  std::array<double, 9> rotation{1, 0, 0, 0, 1, 0, 0, 0, 1};  // row-major; columns are the axes
  Vector position{};

  // matrix: row-major, the last row 0 0 0 1 (Eigen's are column-major: pass a transpose).
  static Pose from_matrix(std::span<const double, 16> matrix,
                          Convention convention = Convention::kOpenCv,
                          Direction direction = Direction::kCameraToWorld);
  // OpenCV's axes. Quaternions are accepted with a norm within 1 % of one, and made exact.
  static Pose from_quaternion(const Vector& position, const Quaternion& xyzw);
  // An XrPosef. The world keeps OpenXR's axes, y up.
  static Pose from_openxr(const Vector& position, const Quaternion& xyzw);
  // A geometry_msgs/Pose of an _optical frame, or of a body frame. The world keeps z up.
  static Pose from_ros(const Vector& position, const Quaternion& xyzw, bool optical = true);
  // A line of COLMAP's images.txt: world-to-camera, the quaternion w first.
  static Pose from_colmap(const Quaternion& wxyz, const Vector& translation);
  // At `eye`, looking at `target`, upright along the world's `up`.
  static Pose look_at(const Vector& eye, const Vector& target, const Vector& up = {0, -1, 0});

  // What from_matrix with the same arguments would read.
  Matrix to_matrix(Convention convention = Convention::kOpenCv,
                   Direction direction = Direction::kCameraToWorld) const;
  Pose inverse() const;  // world-to-camera

  Pose operator*(const Pose& relative) const;  // a pose in this one's camera, in the world
  friend bool operator==(const Pose&, const Pose&) = default;
};

// Focal lengths in units of image width and height, 0.01 .. 100; the principal point is the
// image's centre.
struct RTFM_RT_API Intrinsics {
  double fx, fy;

  // horizontal: degrees; aspect: width / height, of square pixels
  static Intrinsics from_fov(double horizontal, double aspect = 1);
  static Intrinsics from_pixels(double fx, double fy, int width, int height);
  friend bool operator==(const Intrinsics&, const Intrinsics&) = default;
};

// One image and its receipt: what it cost and how much of it was remembered. A copy shares the
// pixels.
class RTFM_RT_API Frame {
 public:
  std::int64_t id = 0;  // position in the session's sequence of frames
  Pose pose;            // where it is seen from, and remembered
  Intrinsics intrinsics{};
  int height = 0, width = 0;
  int images = 1;          // some models make several at once, the latest last
  double latency = 0;      // seconds that the call took
  int steps = 0;           // denoising steps
  double support = 0;      // share of the view that the context has seen: 0 invented, 1 remembered
  bool late = false;       // the deadline had passed when it was finished
  bool committed = false;  // it became part of the world

  // The latest image, uint8 [height, width, 3] RGB, in host memory: of a session with a stream it
  // is copied there at the first call. Valid as long as a copy of this frame lives.
  const std::uint8_t* data() const { return data(images - 1); }
  const std::uint8_t* data(int image) const;
  std::span<const std::uint8_t> pixels() const {
    return {data(), std::size_t(height) * std::size_t(width) * 3};
  }
  // The same on the GPU; null unless the session has a stream.
  const std::uint8_t* device_data() const;

  // Ids of the remembered frames that it attended to.
  std::span<const std::int64_t> context() const { return {context_.data(), context_size_}; }

  // As a camera turned to `pose` would see it (positions are not used): late rotation correction
  // for head-mounted displays.
  Frame reproject(const Pose& pose) const;

 private:
  friend struct Access;
  std::shared_ptr<void> pixels_;
  std::array<std::int64_t, 32> context_{};
  std::size_t context_size_ = 0;
};

struct ModelOptions {
  // "auto" (a GPU where one answers, else the CPU), "cpu", "cuda", "cuda:1". One that is named and
  // missing is a DeviceError.
  std::string device = "auto";
  // "auto", "float32", "bfloat16"; of weights and what meets them "int8" (CPUs with AMX, VNNI or
  // SDOT) and "float8" (GPUs that have it). "auto" is bfloat16 on a GPU, with AMX and on AMD's CPUs
  // since Zen 4, else float32.
  std::string precision = "auto";
  std::string cublas{};  // the path of a libcublasLt.so.13 that multiplies on a GPU; "" for none
};

// How far one number of what leads from frame to frame may go.
struct ActionRange {
  std::string name;
  double min, max;
};
struct Action {
  std::string name;
  double value;
};

// Immutable weights. A copy is the same model; any number of sessions and threads share it.
class RTFM_RT_API Model {
 public:
  // path: a model file. Throws ModelError, DeviceError.
  explicit Model(const std::string& path, const ModelOptions& options = {});

  const std::string& path() const;
  const std::string& name() const;
  const std::string& licence() const;   // of the weights
  const std::string& manifest() const;  // all that the file says of itself, as JSON
  int images() const;                   // in a frame
  int height() const;                   // pixels, of an image
  int width() const;
  Intrinsics intrinsics() const;             // its own, where a call gives none
  std::vector<ActionRange> actions() const;  // empty: it goes by poses
  std::string device() const;                // "cpu:avx512", "cuda:0"
  std::string precision() const;
  std::string cublas() const;  // the one that multiplies, or why not the one given; "" for none
  std::int64_t parameters() const;
  std::string sha256() const;  // of the file, by which world files know it; read at the first call

 private:
  friend class Session;
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

// The newest pose of a camera: any thread writes it, and step(slot) takes the one that was written
// last when the frame is launched. Neither side ever waits for the other.
class RTFM_RT_API PoseSlot {
 public:
  explicit PoseSlot(const Pose& pose);
  ~PoseSlot();
  PoseSlot(const PoseSlot&) = delete;
  PoseSlot& operator=(const PoseSlot&) = delete;

  void write(const Pose& pose);  // one that step would refuse is a PoseError, and the old one stays
  Pose read() const;

 private:
  friend class Session;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

struct Options {  // what is not set comes from the model
  // Of all noise; 0. Equal seeds, pictures and poses give equal frames.
  std::optional<std::uint64_t> seed{};
  std::optional<int> threads{};  // of the CPU; all of them
  // Frames that a new one attends to, and how many of these are the world's first and latest.
  std::optional<int> context{}, sinks{}, recent{};
  std::optional<int> steps{};                   // denoising steps
  std::optional<std::int64_t> memory_budget{};  // bytes for remembered frames; 512 MiB
  std::optional<double> commit_below{};         // a frame with less support is remembered
  std::optional<double> deadline{};             // seconds for a step
  // A cudaStream_t: frames stay on its GPU, in its order, and are finished when step returns.
  std::optional<void*> stream{};
};

struct StepOptions {
  std::optional<Intrinsics> intrinsics{};
  std::optional<double> deadline{};  // seconds: fewer denoising steps where that helps, else `late`
  std::span<std::uint8_t> out{};     // [height, width, 3] to write to as well
};

struct Stats {
  std::int64_t frames = 0, late = 0, committed = 0;
  double p50 = 0, p95 = 0, p99 = 0, worst = 0;  // seconds, of the last 1024 steps
};

class Session;

// What a session remembers. Reading it counts as using the session, which must outlive it.
class RTFM_RT_API Memory {
 public:
  std::int64_t size() const;              // frames
  std::vector<std::int64_t> ids() const;  // oldest first
  Pose pose(std::int64_t id) const;       // throws WorldError, unknown id
  Intrinsics intrinsics(std::int64_t id) const;
  std::vector<std::uint8_t> image(std::int64_t id) const;  // [height, width, 3] RGB
  std::int64_t bytes() const;  // in use: the pixels of all frames, and the pages at hand
  std::int64_t budget() const;
  std::int64_t evicted() const;   // frames forgotten so far to stay within the budget
  std::int64_t resident() const;  // frames whose pages are at hand; others are encoded again

  std::vector<std::int64_t> nearest(const Pose& pose, int k = 1) const;  // ids, nearest first
  // Share of the view that all remembered frames together have seen.
  double coverage(const Pose& pose, const std::optional<Intrinsics>& intrinsics = {}) const;

  // Moves remembered frames, as after a loop closure: all or none; nothing is encoded again.
  void update_pose(std::int64_t id, const Pose& pose) { update_poses({&id, 1}, {&pose, 1}); }
  void update_poses(std::span<const std::int64_t> ids, std::span<const Pose> poses);

 private:
  friend class Session;
  explicit Memory(Session& session) : session_(session) {}
  template <class F>
  auto read(F&& f) const;
  Session& session_;
};

// All state of one walk through one world. One thread at a time: a second one gets a WorldError.
// Everything is allocated when it is made; step allocates nothing while finished frames are
// dropped.
class RTFM_RT_API Session {
 public:
  explicit Session(const Model& model, const Options& options = {});
  ~Session();
  Session(Session&&) noexcept;
  Session& operator=(Session&&) noexcept;

  // A real frame enters the world; returns its id. image: uint8 [height, width, 3] RGB.
  std::int64_t observe(std::span<const std::uint8_t> image, const Pose& pose,
                       const std::optional<Intrinsics>& intrinsics = {});
  // The frame seen from `pose`. WorldError in an empty world.
  Frame step(const Pose& pose, const StepOptions& options = {});
  Frame step(const PoseSlot& pose, const StepOptions& options = {});
  // The frame that step would return now; nothing is committed.
  Frame imagine(const Pose& pose, const std::optional<Intrinsics>& intrinsics = {});

  // The same for models that go from frame to frame by actions; those not named are 0. The pose
  // follows by dead reckoning, unless told otherwise, as by observe.
  std::int64_t observe_act(std::span<const std::uint8_t> image,
                           const std::vector<Action>& actions = {},
                           const std::optional<Pose>& pose = {});
  Frame act(const std::vector<Action>& actions, const StepOptions& options = {});
  Frame imagine_act(const std::vector<Action>& actions);

  // A branch of the world, at once: from here on the two go their own ways.
  Session fork();

  // Writes the world to a file, so that load goes on from here to the bit: a new one, or one that
  // this world was saved to or loaded from, to which only new frames are written. When it returns
  // all is on the disk; whatever happens before, the file holds the last world that was saved.
  void save(const std::string& path);
  // A session that goes on where the one that saved `path` was. options: those that are set take
  // the place of the file's. WorldError for a damaged file, or a world of another model.
  static Session load(const std::string& path, const Model& model, const Options& options = {});

  Memory memory() { return Memory(*this); }
  const Model& model() const;
  std::string device() const;
  int threads() const, steps() const, context() const;
  Stats stats() const;  // from any thread

 private:
  friend class Memory;
  struct Impl;
  explicit Session(std::unique_ptr<Impl> impl);
  Impl& impl() const;  // WorldError in a session that was moved from
  std::unique_ptr<Impl> impl_;
};

RTFM_RT_API const char* version();
RTFM_RT_API int cuda_devices();  // how many GPUs answer

}  // namespace rtfm_rt
