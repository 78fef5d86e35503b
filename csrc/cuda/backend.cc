// SPDX-License-Identifier: Apache-2.0
// A GPU behind csrc/backend.h: every call goes through the table of csrc/cuda/api.h.
#include "csrc/backend.h"

#include <algorithm>
#include <vector>

#include "csrc/cuda/e4m3.h"
#include "csrc/cuda/layout.h"
#include "csrc/cuda/loader.h"

namespace rtfm {
namespace cuda {
namespace {

constexpr int64_t kUnfolded = int64_t{32} << 20;  // bytes of what a convolution sees at a time

// What one backend recorded; it must go before its backend does.
class CudaRecording final : public Recording {
 public:
  CudaRecording(const Api& api, Context* context, Graph* graph)
      : api_(api), context_(context), graph_(graph) {}
  ~CudaRecording() override { api_.release_graph(context_, graph_); }
  Graph* graph() const { return graph_; }

 private:
  const Api& api_;
  Context* context_;
  Graph* graph_;
};

class CudaBackend final : public Backend {
 public:
  // weights: bf16 or e4m3; cublas: the path of a cuBLASLt, or ""
  CudaBackend(const Library& library, DType weights, const std::string& cublas)
      : api_(*library.api), device_(library.device), name_(library.name), weights_(weights) {
    const Status status = api_.open(library.device, cublas.c_str(), &context_);
    std::string problem;
    if (status != Status::ok)
      problem = context_ ? api_.message(context_) : "out of memory";
    else if (weights == DType::e4m3 && !api_.has_fp8(context_))
      problem =
          "expected precision auto or bfloat16 (what this device offers; float8 wants compute "
          "capability 8.9 or newer), got float8";
    else
      return;
    api_.close(context_);
    throw BackendError(name_ + ": " + problem);
  }
  ~CudaBackend() override {
    for (void* memory : held_) api_.release(context_, memory);
    api_.close(context_);
  }
  CudaBackend(const CudaBackend&) = delete;
  CudaBackend& operator=(const CudaBackend&) = delete;

  std::string name() const override { return name_; }
  DType operand_dtype() const override { return DType::bf16; }
  DType weight_dtype() const override { return weights_; }
  int threads() const override { return 1; }
  bool records() const override { return true; }
  std::string cublas() const override { return api_.cublas(context_); }

  void* allocate(int64_t bytes) override {
    void* memory = nullptr;
    check(api_.allocate(context_, bytes, &memory));
    return memory;
  }
  void release(void* memory, int64_t) noexcept override {
    if (memory) api_.release(context_, memory);
  }
  void upload(void* device, const void* host, int64_t bytes) override {
    check(api_.upload(context_, device, host, bytes));
  }
  void download(void* host, const void* device, int64_t bytes) override {
    check(api_.download(context_, host, device, bytes));
  }
  void finish() override { check(api_.finish(context_)); }
  int ordinal() const override { return device_; }
  void copy(void* to, const void* from, int64_t bytes) override {
    check(api_.copy(context_, to, from, bytes));
  }
  void follow(uint64_t stream) override { check(api_.follow(context_, stream)); }
  void fetch(void* host, const void* device, int64_t bytes) override {
    check(api_.fetch(context_, host, device, bytes));
  }

  int64_t row_stride(int64_t cols, DType) const override { return padded_cols(cols); }
  int64_t padded_rows(int64_t rows) const override { return cuda::padded_rows(rows); }
  int64_t weight_bytes(int64_t n, int64_t k, DType) const override {
    return weights_ == DType::e4m3 ? e4m3_bytes(n, k) + n * int64_t(sizeof(float))
                                   : kernel_bytes(n, k);
  }
  int64_t query_bytes(int64_t heads, int64_t tokens, int64_t dim) const override {
    return heads * padded_queries(tokens) * dim * int64_t(sizeof(Half));
  }
  int64_t slot_bytes(int64_t heads, int64_t tokens, int64_t dim) const override {
    return 2 * heads * padded_keys(tokens) * dim * int64_t(sizeof(Half));
  }

  void pack_weight(const float* w, int64_t n, int64_t k, DType, void* packed) override {
    weights_ == DType::e4m3 ? pack_e4m3(w, n, k, packed) : pack_kernel(w, n, k, packed);
  }
  int64_t kernel_bytes(int64_t n, int64_t k) const override {
    return cuda::padded_rows(n) * padded_cols(k) * int64_t(sizeof(Half));
  }
  // [padded n, padded k]: rows as they are, the rest stays zero
  void pack_kernel(const float* w, int64_t n, int64_t k, void* packed) override {
    std::vector<Half> rows(static_cast<size_t>(n * padded_cols(k)));
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < k; ++j) rows[size_t(i * padded_cols(k) + j)] = to_half(w[i * k + j]);
    upload(packed, rows.data(), int64_t(rows.size() * sizeof(Half)));
  }

  void matmul(const MatmulArgs& a) override {
    const auto op = weights_ == DType::e4m3 ? api_.quantized_matmul : api_.matmul;
    in_matmul(a.epilogue) ? check(op(context_, &a)) : multiply_first(op, a);
  }
  // A strip of places at a time: what they see becomes the rows of a matrix.
  void convolution(const ConvolutionArgs& a) override {
    const int64_t places = a.rows() * a.cols();
    const int64_t depth = a.side * a.side * (a.channels + a.past_channels);
    const int64_t stride = padded_cols(depth), row_bytes = stride * int64_t(sizeof(Half));
    const int64_t strip = std::min(places, cuda::padded_rows(kUnfolded / row_bytes + 1));
    const int64_t element = size_of(a.epilogue == Epilogue::store ? DType::f32 : DType::bf16);
    void* seen = scratch(kSeen, cuda::padded_rows(strip) * row_bytes);
    for (int64_t first = 0; first < places; first += strip) {
      const int64_t count = std::min(strip, places - first);
      const UnfoldArgs unfold{a, a.cols(), seen, first, count, stride};
      check(api_.unfold(context_, &unfold));
      multiply_first(api_.matmul,
                     {.x = seen,
                      .w = a.w,
                      .bias = a.bias,
                      .gate = nullptr,
                      .y = static_cast<char*>(a.y) + first * a.y_stride * element,
                      .x_stride = stride,
                      .y_stride = a.y_stride,
                      .rows = count,
                      .n = a.n,
                      .k = depth,
                      .epilogue = a.epilogue,
                      .residual = static_cast<const Half*>(a.residual) + first * a.residual_stride,
                      .residual_stride = a.residual_stride});
    }
  }
  void norm_modulate(const NormModulateArgs& a) override {
    check(api_.norm_modulate(context_, &a));
  }
  void qkv_split(const QkvSplitArgs& a) override { check(api_.qkv_split(context_, &a)); }
  void gather(const GatherArgs& a) override { check(api_.gather(context_, &a)); }
  void attention(const AttentionArgs& a) override { check(api_.attention(context_, &a)); }
  void sampler(const SamplerArgs& a) override { check(api_.sampler(context_, &a)); }
  void patchify(const PatchifyArgs& a) override { check(api_.patchify(context_, &a)); }
  void unpatchify(const UnpatchifyArgs& a) override { check(api_.unpatchify(context_, &a)); }
  void state_load(const StateCopyArgs& a) override { check(api_.state_load(context_, &a)); }
  void state_store(const StateCopyArgs& a) override { check(api_.state_store(context_, &a)); }
  void ray_patches(const RayPatchesArgs& a) override { check(api_.ray_patches(context_, &a)); }
  void time_attention(const TimeAttentionArgs& a) override {
    check(api_.time_attention(context_, &a));
  }
  void condition(const ConditionArgs& a) override { check(api_.condition(context_, &a)); }
  void save_frame(const SaveFrameArgs& a) override { check(api_.save_frame(context_, &a)); }
  void load_frame(const LoadFrameArgs& a) override { check(api_.load_frame(context_, &a)); }
  void group(const GroupArgs& a) override { check(api_.group(context_, &a)); }
  void ungroup(const UngroupArgs& a) override { check(api_.ungroup(context_, &a)); }

 protected:
  // The first time the work is done as it is, so that nothing is set up while it is recorded.
  void replay(std::unique_ptr<Recording>& recording, void (*work)(const void*),
              const void* f) override {
    if (recording)
      return check(api_.launch(context_, static_cast<CudaRecording&>(*recording).graph()));
    work(f);
    check(api_.begin(context_));
    Graph* graph = nullptr;
    try {
      work(f);
    } catch (...) {
      api_.end(context_, &graph);
      if (graph) api_.release_graph(context_, graph);
      throw;
    }
    check(api_.end(context_, &graph));
    recording = std::make_unique<CudaRecording>(api_, context_, graph);
  }

 private:
  enum Purpose : size_t { kProduct, kSeen };
  struct Scratch {
    void* memory = nullptr;
    int64_t bytes = 0;
  };

  // The product to memory, and the epilogue from there.
  void multiply_first(Status (*matmul)(Context*, const MatmulArgs*), const MatmulArgs& a) {
    MatmulArgs product = a;
    product.epilogue = Epilogue::store, product.y_stride = padded_cols(a.n);
    product.y = scratch(kProduct, a.rows * product.y_stride * int64_t(sizeof(float)));
    check(matmul(context_, &product));
    const EpilogueArgs rest{.r = static_cast<const float*>(product.y),
                            .residual = a.residual,
                            .y = a.y,
                            .r_stride = product.y_stride,
                            .residual_stride = a.residual_stride,
                            .y_stride = a.y_stride,
                            .rows = a.rows,
                            .n = a.n,
                            .epilogue = a.epilogue};
    check(api_.epilogue(context_, &rest));
  }

  // Memory between the launches of one op. It grows while nothing is recorded, as work is done once
  // before that; recorded work may hold what was in use before.
  void* scratch(Purpose purpose, int64_t bytes) {
    Scratch& s = scratch_[purpose];
    if (bytes > s.bytes) {
      bytes = std::max(bytes, 2 * s.bytes);
      s = {held_.emplace_back(allocate(bytes)), bytes};
    }
    return s.memory;
  }

  void pack_e4m3(const float* w, int64_t n, int64_t k, void* packed) {
    const int64_t cols = padded_cols_e4m3(k);
    std::vector<uint8_t> rows(static_cast<size_t>(n * cols));
    std::vector<float> scales(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i)
      scales[size_t(i)] = quantize(w + i * k, k, &rows[size_t(i * cols)]);
    upload(packed, rows.data(), n * cols);
    upload(static_cast<uint8_t*>(packed) + e4m3_bytes(n, k), scales.data(), n * 4);
  }

  void check(Status status) const {
    if (status == Status::ok) [[likely]]
      return;
    const std::string what = name_ + ": " + api_.message(context_);
    throw BackendError(status == Status::failed ? what + "; the device is lost to this session"
                                                : what);
  }

  const Api& api_;
  int device_;
  std::string name_;
  DType weights_;
  Context* context_ = nullptr;
  Scratch scratch_[2];       // by purpose, what is in use
  std::vector<void*> held_;  // that and what it grew out of
};

}  // namespace
}  // namespace cuda

std::unique_ptr<Backend> make_cuda_backend(const std::string& which, std::optional<DType> precision,
                                           const std::string& cublas) {
  const cuda::Library library = cuda::open_library(which.c_str());
  if (!library.api) throw BackendError(library.problem);
  if (precision == DType::f32 || precision == DType::i8)
    throw BackendError(
        "expected precision auto, bfloat16 or float8 (what CUDA devices compute in), got " +
        std::string(precision == DType::f32 ? "float32" : "int8"));
  return std::make_unique<cuda::CudaBackend>(library, precision.value_or(DType::bf16), cublas);
}

int cuda_devices() {
  const cuda::Library library = cuda::open_library("");
  return library.api ? library.api->device_count() : 0;
}

}  // namespace rtfm
