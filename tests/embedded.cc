// SPDX-License-Identifier: Apache-2.0
// Plays lines of standard input on the C++ API and prints what comes of each: tests/test_embed.py
// plays the same lines on the Python API. An error prints its class and message.
#include <rtfm_rt.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <new>
#include <sstream>

static size_t allocations = 0;  // of the library too, which takes this operator

void* operator new(size_t bytes) {
  ++allocations;
  if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace {

using namespace rtfm_rt;

template <size_t N>
std::array<double, N> numbers(std::istream& words) {
  std::array<double, N> values{};
  for (double& value : values) words >> value;
  return values;
}

Pose pose(std::istream& words) { return Pose::from_matrix(numbers<16>(words)); }

std::string word(std::istream& words) {
  std::string text;
  words >> text;
  return text;
}

std::vector<std::uint8_t> file(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

std::vector<Action> actions(std::istream& words) {
  std::vector<Action> actions;
  for (Action a; words >> a.name >> a.value;) actions.push_back(a);
  return actions;
}

Options options(std::istream& words) {
  Options o;
  std::string name;
  for (double value; words >> name >> value;) {
    if (name == "seed") o.seed = std::uint64_t(value);
    if (name == "threads") o.threads = int(value);
    if (name == "context") o.context = int(value);
    if (name == "sinks") o.sinks = int(value);
    if (name == "recent") o.recent = int(value);
    if (name == "steps") o.steps = int(value);
    if (name == "memory_budget") o.memory_budget = std::int64_t(value);
    if (name == "commit_below") o.commit_below = value;
    if (name == "deadline") o.deadline = value;
  }
  return o;
}

Convention convention(const std::string& name) {
  constexpr std::pair<const char*, Convention> kAll[] = {
      {"opencv", Convention::kOpenCv},    {"opengl", Convention::kOpenGl},
      {"openxr", Convention::kOpenXr},    {"ros_optical", Convention::kRosOptical},
      {"ros_body", Convention::kRosBody}, {"unity", Convention::kUnity}};
  for (const auto& [known, value] : kAll)
    if (name == known) return value;
  return Convention(99);
}

Direction direction(const std::string& name) {
  return name == "world_to_camera" ? Direction::kWorldToCamera : Direction::kCameraToWorld;
}

void print(std::span<const double> values) {
  for (size_t i = 0; i < values.size(); ++i) std::printf(i ? " %.17g" : "%.17g", values[i]);
  std::printf("\n");
}

void print(const std::vector<std::int64_t>& ids) {
  for (const std::int64_t id : ids) std::printf("%lld ", static_cast<long long>(id));
  std::printf("\n");
}

void print(const Frame& f) {
  std::printf("%lld %d %.17g %d %d %dx%d %d context", static_cast<long long>(f.id), f.steps,
              f.support, f.late, f.committed, f.width, f.height, f.images);
  for (const std::int64_t id : f.context()) std::printf(" %lld", static_cast<long long>(id));
  std::printf("\n");
  print(f.pose.to_matrix());
  for (int image = 0; image < f.images; ++image) {
    const std::uint8_t* pixels = f.data(image);
    for (int i = 0; i < 3 * f.height * f.width; ++i) std::printf("%02x", pixels[i]);
    std::printf("\n");
  }
  if (f.data() != f.data(f.images - 1) || f.pixels().data() != f.data() || f.device_data())
    throw Error("frame: its pixels are not where they should be");
}

struct Player {
  std::optional<Model> model;
  std::vector<Session> sessions;  // the last is the one that plays; others are its parents
  std::optional<Frame> frame;

  Session& now() { return sessions.back(); }

  void show(Frame made) {
    print(made);
    frame = std::move(made);
  }

  void stepped(const std::function<Frame(const StepOptions&)>& step) {
    std::vector<std::uint8_t> out(std::size_t(3 * model->height() * model->width()));
    Frame made = step({.out = out});
    if (!std::ranges::equal(out, made.pixels())) throw Error("out: not the frame");
    show(std::move(made));
  }

  bool play_world(const std::string& call, std::istream& words) {
    if (call == "model") {
      const std::string path = word(words);
      ModelOptions o{.device = word(words)};
      o.precision = word(words);
      sessions.clear(), model.emplace(path, o);
      std::printf("%s %s %dx%d %lld %s %s\n", model->name().c_str(), model->licence().c_str(),
                  model->width(), model->height(), static_cast<long long>(model->parameters()),
                  model->device().c_str(), model->precision().c_str());
      print(std::array{model->intrinsics().fx, model->intrinsics().fy});
      for (const ActionRange& a : model->actions())
        std::printf("%s %.17g %.17g\n", a.name.c_str(), a.min, a.max);
    } else if (call == "sum") {
      std::printf("%s\n", model->sha256().c_str());
    } else if (call == "session") {
      Session made(*model, options(words));
      sessions.clear(), sessions.push_back(std::move(made));
      std::printf("%d %d %d\n", now().threads(), now().steps(), now().context());
    } else if (call == "fork") {
      Session branch = now().fork();
      sessions.push_back(std::move(branch));
    } else if (call == "back") {
      sessions.pop_back();
    } else if (call == "save") {
      now().save(word(words));
    } else if (call == "load") {
      const std::string path = word(words);
      Session made = Session::load(path, *model, options(words));
      sessions.clear(), sessions.push_back(std::move(made));
      std::printf("%d %d %d\n", now().threads(), now().steps(), now().context());
    } else if (call == "moved") {
      Session other = std::move(now());
      sessions.pop_back();
      now().stats();
    } else {
      return false;
    }
    return true;
  }

  bool play_frames(const std::string& call, std::istream& words) {
    if (call == "observe") {
      const auto image = file(word(words));
      std::printf("%lld\n", static_cast<long long>(now().observe(image, pose(words))));
    } else if (call == "step") {
      stepped([&](const StepOptions& o) { return now().step(pose(words), o); });
    } else if (call == "slot") {
      PoseSlot slot{Pose{}};
      slot.write(pose(words));
      stepped([&](const StepOptions& o) { return now().step(slot, o); });
    } else if (call == "steady") {
      const Pose at = pose(words);
      for (int i = 0; i < 20; ++i) {
        if (i == 10) allocations = 0;
        now().step(at);
      }
      std::printf("%zu\n", allocations);
    } else if (call == "zoom") {
      const auto [fx, fy] = numbers<2>(words);
      show(now().step(pose(words), {.intrinsics = Intrinsics{fx, fy}, .deadline = 1e-9}));
    } else if (call == "imagine") {
      show(now().imagine(pose(words)));
    } else if (call == "observe_act") {
      const auto image = file(word(words));
      std::printf("%lld\n", static_cast<long long>(now().observe_act(image, actions(words))));
    } else if (call == "act") {
      stepped([&](const StepOptions& o) { return now().act(actions(words), o); });
    } else if (call == "imagine_act") {
      show(now().imagine_act(actions(words)));
    } else if (call == "reproject") {
      show(frame->reproject(pose(words)));
    } else {
      return false;
    }
    return true;
  }

  bool play_memory(const std::string& call, std::istream& words) {
    Memory memory = now().memory();
    if (call == "memory") {
      const Pose from = pose(words);
      print({memory.size(), memory.bytes(), memory.budget(), memory.evicted(), memory.resident()});
      print(memory.ids());
      print(memory.nearest(from, 3));
      print(std::array{memory.coverage(from)});
      const Stats stats = now().stats();
      print({stats.frames, stats.late, stats.committed});
    } else if (call == "remembered") {
      const auto id = std::int64_t(numbers<1>(words)[0]);
      print(memory.pose(id).to_matrix());
      for (const std::uint8_t value : memory.image(id)) std::printf("%02x", value);
      std::printf("\n");
    } else if (call == "move") {
      const auto id = std::int64_t(numbers<1>(words)[0]);
      memory.update_pose(id, pose(words));
    } else {
      return false;
    }
    return true;
  }

  void play(std::istream& words) {
    const std::string call = word(words);
    if (play_world(call, words) || play_frames(call, words) || play_memory(call, words)) return;
    throw std::runtime_error("no such call: " + call);
  }
};

void play_pose(std::istream& words) {
  const std::string call = word(words);
  if (call == "from_matrix" || call == "to_matrix") {
    const Convention c = convention(word(words));
    const Direction d = direction(word(words));
    const Matrix m = numbers<16>(words);
    print(call == "from_matrix" ? Pose::from_matrix(m, c, d).to_matrix()
                                : Pose::from_matrix(m).to_matrix(c, d));
  } else if (call == "inverse") {
    print(pose(words).inverse().to_matrix());
  } else if (call == "product") {
    const Pose left = pose(words);
    print((left * pose(words)).to_matrix());
  } else if (call == "from_fov") {
    const auto [horizontal, aspect] = numbers<2>(words);
    const Intrinsics k = Intrinsics::from_fov(horizontal, aspect);
    print(std::array{k.fx, k.fy});
  } else if (call == "from_pixels") {
    const auto [fx, fy, width, height] = numbers<4>(words);
    const Intrinsics k = Intrinsics::from_pixels(fx, fy, int(width), int(height));
    print(std::array{k.fx, k.fy});
  } else if (call == "from_colmap") {
    const auto q = numbers<4>(words);
    print(Pose::from_colmap(q, numbers<3>(words)).to_matrix());
  } else if (call == "look_at") {
    const auto eye = numbers<3>(words), target = numbers<3>(words);
    print(Pose::look_at(eye, target, numbers<3>(words)).to_matrix());
  } else {
    const auto position = numbers<3>(words);
    const auto q = numbers<4>(words);
    print((call == "from_openxr"     ? Pose::from_openxr(position, q)
           : call == "from_ros"      ? Pose::from_ros(position, q)
           : call == "from_ros_body" ? Pose::from_ros(position, q, false)
                                     : Pose::from_quaternion(position, q))
              .to_matrix());
  }
}

void refuse(const char* kind, const std::exception& e) { std::printf("%s: %s\n", kind, e.what()); }

}  // namespace

int main() {
  Player player;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    try {
      if (line.starts_with("pose "))
        play_pose(words.ignore(5));
      else
        player.play(words);
    } catch (const PoseError& e) {
      refuse("PoseError", e);
    } catch (const ArgumentError& e) {
      refuse("ArgumentError", e);
    } catch (const ModelError& e) {
      refuse("ModelError", e);
    } catch (const WorldError& e) {
      refuse("WorldError", e);
    } catch (const DeviceError& e) {
      refuse("DeviceError", e);
    } catch (const Error& e) {
      refuse("Error", e);
    }
    std::printf("done\n");
    std::fflush(stdout);
  }
}
