// SPDX-License-Identifier: Apache-2.0
// Between the values of rtfm_rt.h and those of src/.
#pragma once

#include <algorithm>
#include <mutex>

#include "cpp/rtfm_rt.h"
#include "csrc/backend.h"
#include "src/check.h"
#include "src/frame.h"
#include "src/model.h"
#include "src/pose.h"

namespace rtfm_rt {

// f(), with the errors of src/ as those of rtfm_rt.h.
template <class F>
auto translated(F&& f) -> decltype(f()) {
  try {
    return f();
  } catch (const rtfm::PoseError& e) {
    throw PoseError(e.what());
  } catch (const rtfm::ArgumentError& e) {
    throw ArgumentError(e.what());
  } catch (const rtfm::ModelError& e) {
    throw ModelError(e.what());
  } catch (const rtfm::WorldError& e) {
    throw WorldError(e.what());
  } catch (const rtfm::DeviceError& e) {
    throw DeviceError(e.what());
  } catch (const rtfm::BackendError& e) {
    throw DeviceError(e.what());
  } catch (const rtfm::Error& e) {
    throw Error(e.what());
  }
}

inline rtfm::Pose to_pose(const Pose& pose) {
  return rtfm::Pose::from_matrix(rtfm::Pose{pose.rotation, pose.position}.matrix().data());
}

inline Pose from_pose(const rtfm::Pose& pose) { return {pose.rotation, pose.position}; }

inline rtfm::View to_view(const Pose& pose, const std::optional<Intrinsics>& own,
                          const rtfm::Intrinsics& otherwise) {
  const rtfm::Intrinsics k = own ? rtfm::Intrinsics{own->fx, own->fy} : otherwise;
  rtfm::check_intrinsics(k);
  return {to_pose(pose), k};
}

struct Model::Impl {
  std::array<std::int64_t, 4> stamp;  // of its file, as it was loaded
  std::shared_ptr<const rtfm::Model> model;
  std::once_flag once;
  std::string sha256;
};

struct Access {
  static Frame frame(rtfm::Frame f) {
    static_assert(std::tuple_size_v<decltype(Frame::context_)> == rtfm::kMaxContext);
    Frame made;
    made.id = f.id, made.pose = from_pose(f.view.pose);
    made.intrinsics = {f.view.intrinsics.fx, f.view.intrinsics.fy};
    made.height = f.height, made.width = f.width, made.images = f.images;
    made.latency = f.latency, made.steps = f.steps, made.support = f.support;
    made.late = f.late, made.committed = f.committed;
    made.context_ = f.context, made.context_size_ = size_t(f.context_size);
    made.pixels_ = std::move(f.pixels);
    return made;
  }

  // What made it, but for what only the receipt says.
  static rtfm::Frame frame(const Frame& f) {
    return {.pixels = pixels(f),
            .images = f.images,
            .height = f.height,
            .width = f.width,
            .view = {to_pose(f.pose), {f.intrinsics.fx, f.intrinsics.fy}}};
  }

  static std::shared_ptr<rtfm::Pixels> pixels(const Frame& f) {
    return std::static_pointer_cast<rtfm::Pixels>(f.pixels_);
  }
};

}  // namespace rtfm_rt
