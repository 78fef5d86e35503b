// SPDX-License-Identifier: Apache-2.0
#include "csrc/cuda/cublas.h"

#include <dlfcn.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <new>

#include "csrc/cuda/layout.h"

namespace rtfm::cuda {
namespace {

constexpr int kMajor = 13;
constexpr int kMostProposals = 8;
constexpr uint64_t kWorkspace = uint64_t{32} << 20;  // what NVIDIA advises for a Hopper
constexpr uint32_t kAlignment = 16;                  // of every matrix and its rows

struct FormAbout {
  Epilogue epilogue;
  bool bias, gate;
  const char* name;
};
constexpr FormAbout kAbout[kForms] = {
    {Epilogue::store, false, false, "store"},
    {Epilogue::store, true, false, "store with bias"},
    {Epilogue::gelu, false, false, "gelu"},
    {Epilogue::gelu, true, false, "gelu with bias"},
    {Epilogue::gated_residual, false, false, "residual"},
    {Epilogue::gated_residual, true, false, "residual with bias"},
    {Epilogue::gated_residual, false, true, "residual with gate"}};

bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % kAlignment == 0; }

cudaDataType_t type_of_y(Epilogue e) { return e == Epilogue::gelu ? CUDA_R_16BF : CUDA_R_32F; }

struct Setting {
  int32_t what;
  const void* value;
  size_t bytes;
};
template <class Attribute, class T>
Setting setting(Attribute what, const T& value) {
  return {int32_t(what), &value, sizeof value};
}

}  // namespace

Form form_of(const MatmulArgs& a) {
  if (a.n % 16 || a.k % 8 || a.x_stride % 8 || a.y_stride % 16) return Form::none;
  for (const void* p : {a.x, a.w, static_cast<const void*>(a.bias),
                        static_cast<const void*>(a.gate), static_cast<const void*>(a.y)})
    if (!aligned(p)) return Form::none;
  int form = 0;
  while (form < kForms &&
         !(kAbout[form].epilogue == a.epilogue && kAbout[form].bias == (a.bias != nullptr) &&
           kAbout[form].gate == (a.gate != nullptr)))
    ++form;
  return Form(form);
}

// ---- The library.

bool Cublas::load(const char* path) {
  const auto refuse = [&](const char* expected, const char* got) {
    std::snprintf(about_, sizeof about_, "no cuBLASLt: %s: expected %s, got %s", path, expected,
                  got);
    return false;
  };
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    std::snprintf(about_, sizeof about_, "no cuBLASLt: %s", dlerror());
    return false;
  }
#define FIND(name)                                                                   \
  lt_.name = reinterpret_cast<decltype(lt_.name)>(dlsym(library, "cublasLt" #name)); \
  if (!lt_.name) return refuse("a function cublasLt" #name, "none");
  RTFM_CUBLASLT_FUNCTIONS(FIND)
#undef FIND
  const int version = int(lt_.GetVersion());
  char text[64];
  std::snprintf(text, sizeof text, "%d.%d.%d", version / 10000, version / 100 % 100, version % 100);
  if (version / 10000 != kMajor) return refuse("version 13", text);
  std::snprintf(about_, sizeof about_, "cuBLASLt %s", text);
  return true;
}

cudaError_t Cublas::open(const char* path, cudaStream_t stream, void* pinned) {
  if (!*path || !load(path)) return cudaSuccess;
  const lt::Status status = lt_.Create(&handle_);
  if (status == lt::Status::alloc_failed) return cudaErrorMemoryAllocation;
  if (status != lt::Status::success) {
    std::snprintf(about_, sizeof about_, "no cuBLASLt: %s: %s", path, lt_.GetStatusName(status));
    return cudaSuccess;
  }
  return try_forms(stream, pinned);
}

cudaError_t Cublas::error_of(lt::Status status) {
  if (status == lt::Status::success) return cudaSuccess;
  std::snprintf(problem_, sizeof problem_, "cuBLASLt: %s", lt_.GetStatusName(status));
  switch (status) {
    case lt::Status::invalid_value:
    case lt::Status::arch_mismatch:
    case lt::Status::not_supported:
      return cudaErrorNotSupported;
    case lt::Status::alloc_failed:
      return cudaErrorMemoryAllocation;
    default:
      return cudaErrorUnknown;
  }
}

// ---- Plans: a shape, in cuBLASLt's words, and what multiplies it. Its matrices are column-major,
// so it computes yᵀ[n, rows] = w[k, n]ᵀ · xᵀ[k, rows].

struct Cublas::Plan {
  MatmulArgs shape;  // of the first one; its addresses mean nothing
  Form form;
  Plan* next;
  bool usable = false, used = false;
  lt::Desc desc = nullptr;
  lt::Layout w = nullptr, x = nullptr, y = nullptr;
  lt::Algorithm algorithm = {};

  bool fits(const MatmulArgs& a, Form f) const {
    return f == form && a.rows == shape.rows && a.n == shape.n && a.k == shape.k &&
           a.x_stride == shape.x_stride && a.y_stride == shape.y_stride;
  }
};

Cublas::~Cublas() {
  while (Plan* p = plans_) {
    plans_ = p->next;
    for (const lt::Layout layout : {p->w, p->x, p->y})
      if (layout) lt_.MatrixLayoutDestroy(layout);
    if (p->desc) lt_.MatmulDescDestroy(p->desc);
    delete p;
  }
  if (handle_) lt_.Destroy(handle_);
  if (workspace_) cudaFree(workspace_);
}

lt::Status Cublas::describe(const MatmulArgs& a, Plan& p) {
  const FormAbout& about = kAbout[int(p.form)];
  const bool gelu = about.epilogue == Epilogue::gelu;
  const lt::Operation transposed = lt::Operation::transposed;
  const lt::Epilogue epilogue = about.bias ? (gelu ? lt::Epilogue::gelu_bias : lt::Epilogue::bias)
                                           : (gelu ? lt::Epilogue::gelu : lt::Epilogue::none);
  const lt::PointerMode mode =
      about.gate ? lt::PointerMode::alpha_vector_beta_host : lt::PointerMode::host;
  const int32_t bias_type = CUDA_R_32F;
  const void* bias = reinterpret_cast<const void*>(uintptr_t{kAlignment});  // for its alignment
  const Setting settings[] = {setting(lt::DescAttribute::operation_a, transposed),
                              setting(lt::DescAttribute::epilogue, epilogue),
                              setting(lt::DescAttribute::pointer_mode, mode),
                              setting(lt::DescAttribute::bias_data_type, bias_type),
                              setting(lt::DescAttribute::bias_pointer, bias)};
  lt::Status status = lt_.MatmulDescCreate(&p.desc, lt::Compute::f32, CUDA_R_32F);
  const size_t count = about.bias ? std::size(settings) : 3;
  for (size_t i = 0; i < count && status == lt::Status::success; ++i)
    status = lt_.MatmulDescSetAttribute(p.desc, lt::DescAttribute(settings[i].what),
                                        settings[i].value, settings[i].bytes);

  struct {
    lt::Layout* layout;
    cudaDataType_t type;
    int64_t rows, cols, stride;
  } const matrices[] = {{&p.w, CUDA_R_16BF, a.k, a.n, padded_cols(a.k)},
                        {&p.x, CUDA_R_16BF, a.k, a.rows, a.x_stride},
                        {&p.y, type_of_y(about.epilogue), a.n, a.rows, a.y_stride}};
  for (const auto& m : matrices)
    if (status == lt::Status::success)
      status =
          lt_.MatrixLayoutCreate(m.layout, m.type, uint64_t(m.rows), uint64_t(m.cols), m.stride);
  return status;
}

// The algorithm that the library's heuristic ranks first, among those that leave partial sums in
// f32 and in an order of their own.
lt::Status Cublas::choose(Plan& p) {
  const lt::Reduction reduction = lt::Reduction::compute_type;
  const Setting settings[] = {setting(lt::PreferenceAttribute::workspace_bytes, kWorkspace),
                              setting(lt::PreferenceAttribute::reduction_schemes, reduction),
                              setting(lt::PreferenceAttribute::alignment_a, kAlignment),
                              setting(lt::PreferenceAttribute::alignment_b, kAlignment),
                              setting(lt::PreferenceAttribute::alignment_c, kAlignment),
                              setting(lt::PreferenceAttribute::alignment_d, kAlignment)};
  lt::Preference preference = nullptr;
  lt::Status status = lt_.MatmulPreferenceCreate(&preference);
  for (const Setting& s : settings)
    if (status == lt::Status::success)
      status = lt_.MatmulPreferenceSetAttribute(preference, lt::PreferenceAttribute(s.what),
                                                s.value, s.bytes);
  lt::Proposal proposals[kMostProposals] = {};
  int found = 0;
  if (status == lt::Status::success)
    status = lt_.MatmulAlgoGetHeuristic(handle_, p.desc, p.w, p.x, p.y, p.y, preference, rank_ + 1,
                                        proposals, &found);
  if (preference) lt_.MatmulPreferenceDestroy(preference);
  if (status != lt::Status::success) return status;
  if (found <= rank_) return lt::Status::not_supported;
  p.algorithm = proposals[rank_].algorithm;
  return proposals[rank_].state;
}

cudaError_t Cublas::plan(const MatmulArgs& a, Form form, Plan** found) {
  Plan* p = plans_;
  while (p && !p->fits(a, form)) p = p->next;
  *found = p;
  if (p) return cudaSuccess;
  *found = p = new (std::nothrow) Plan{a, form, plans_};
  if (!p) return cudaErrorMemoryAllocation;
  plans_ = p;
  lt::Status status = describe(a, *p);
  if (status == lt::Status::success) status = choose(*p);
  const cudaError_t error = error_of(status);
  p->usable = error == cudaSuccess;
  return error == cudaErrorNotSupported ? cudaSuccess : error;
}

cudaError_t Cublas::matmul(const MatmulArgs& a, cudaStream_t stream) {
  const Form form = form_of(a);
  if (form == Form::none || !(offered_ >> int(form) & 1)) return cudaErrorNotSupported;
  Plan* p = nullptr;
  cudaError_t error = plan(a, form, &p);
  if (error != cudaSuccess) return error;
  if (!p->usable) return cudaErrorNotSupported;

  const float one = 1, beta = a.epilogue == Epilogue::gated_residual ? 1.f : 0.f;
  const void* alpha = a.gate ? a.gate : &one;
  lt::Status status = lt::Status::success;
  if (a.bias)
    status = lt_.MatmulDescSetAttribute(p->desc, lt::DescAttribute::bias_pointer, &a.bias,
                                        sizeof a.bias);
  if (status == lt::Status::success)
    status = lt_.Matmul(handle_, p->desc, alpha, a.w, p->w, a.x, p->x, &beta, a.y, p->y, a.y, p->y,
                        &p->algorithm, workspace_, kWorkspace, stream);
  error = error_of(status);
  if (error == cudaErrorNotSupported && p->used) return cudaErrorUnknown;
  p->usable = error == cudaSuccess, p->used = true;
  return error;
}

// ---- What the library says that it can do is tried on a small product.

namespace {

constexpr int kRows = 32, kN = 64, kK = 48, kStride = 64, kStrideY = 80;

struct alignas(256) Trial {
  Half x[kRows * kStride], w[kN * kStride];
  float bias[kN], gate[kN], y[kRows * kStrideY];
};
static_assert(2 * sizeof(Trial) <= Cublas::kPinned && kWorkspace % alignof(Trial) == 0);

// Numbers whose products f32 adds up exactly in any order.
void fill(Trial& t) {
  uint32_t state = 1;
  const auto next = [&state] {
    state = state * 1664525u + 1013904223u;
    return float(int(state >> 28) - 8) / 8;
  };
  std::memset(static_cast<void*>(&t), 0, sizeof t);
  for (int i = 0; i < kRows; ++i)
    for (int j = 0; j < kK; ++j) t.x[i * kStride + j] = to_half(next());
  for (int i = 0; i < kN; ++i)
    for (int j = 0; j < kK; ++j) t.w[i * kStride + j] = to_half(next());
  for (float& value : t.bias) value = next();
  for (float& value : t.gate) value = next();
  for (float& value : t.y) value = next();
}

float y_at(const Trial& t, const FormAbout& form, int i) {
  return form.epilogue == Epilogue::gelu ? from_half(reinterpret_cast<const Half*>(t.y)[i])
                                         : t.y[i];
}

float expected(const Trial& before, const FormAbout& form, int row, int col) {
  const float y = y_at(before, form, row * kStrideY + col);
  if (col >= kN) return y;
  float r = form.bias ? before.bias[col] : 0;
  for (int j = 0; j < kK; ++j)
    r += from_half(before.x[row * kStride + j]) * from_half(before.w[col * kStride + j]);
  if (form.epilogue == Epilogue::gelu)
    return 0.5f * r * (1 + std::tanh(0.7978845608f * (r + 0.044715f * r * r * r)));
  if (form.epilogue == Epilogue::store) return r;
  return y + (form.gate ? before.gate[col] : 1) * r;
}

bool as_expected(const Trial& before, const Trial& after, const FormAbout& form) {
  for (int row = 0; row < kRows; ++row)
    for (int col = 0; col < kStrideY; ++col) {
      const float want = expected(before, form, row, col);
      const float rounding = form.epilogue == Epilogue::gelu ? std::fabs(want) / 128 : 0;
      if (!(std::fabs(y_at(after, form, row * kStrideY + col) - want) <= rounding + 1e-4f))
        return false;
    }
  return true;
}

}  // namespace

cudaError_t Cublas::try_forms(cudaStream_t stream, void* pinned) {
  cudaError_t error = cudaMalloc(&workspace_, kWorkspace + sizeof(Trial));
  if (error != cudaSuccess) return error;
  Trial* before = static_cast<Trial*>(pinned);
  Trial* after = before + 1;
  Trial* device = reinterpret_cast<Trial*>(static_cast<char*>(workspace_) + kWorkspace);
  fill(*before);
  const char* separator = ", but not for ";
  for (int i = 0; i < kForms; ++i) {
    const FormAbout& form = kAbout[i];
    offered_ |= 1u << i;
    error = cudaMemcpyAsync(device, before, sizeof(Trial), cudaMemcpyHostToDevice, stream);
    if (error != cudaSuccess) return error;
    const cudaError_t multiplied = matmul({.x = device->x,
                                           .w = device->w,
                                           .bias = form.bias ? device->bias : nullptr,
                                           .gate = form.gate ? device->gate : nullptr,
                                           .y = device->y,
                                           .x_stride = kStride,
                                           .y_stride = kStrideY,
                                           .rows = kRows,
                                           .n = kN,
                                           .k = kK,
                                           .epilogue = form.epilogue},
                                          stream);
    if (multiplied == cudaErrorMemoryAllocation) return multiplied;
    error = cudaMemcpyAsync(after, device, sizeof(Trial), cudaMemcpyDeviceToHost, stream);
    if (error == cudaSuccess) error = cudaStreamSynchronize(stream);
    if (error != cudaSuccess) return error;
    if (multiplied == cudaSuccess && as_expected(*before, *after, form)) continue;
    offered_ &= ~(1u << i);
    const size_t length = std::strlen(about_);
    std::snprintf(about_ + length, sizeof about_ - length, "%s%s", separator, form.name);
    separator = ", ";
  }
  return cudaSuccess;
}

}  // namespace rtfm::cuda
