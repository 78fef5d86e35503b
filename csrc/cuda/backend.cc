// SPDX-License-Identifier: Apache-2.0
// A GPU behind csrc/backend.h: every call goes through the table of csrc/cuda/api.h.
#include "csrc/backend.h"

#include <vector>

#include "csrc/cuda/e4m3.h"
#include "csrc/cuda/layout.h"
#include "csrc/cuda/loader.h"

namespace rtfm {
namespace cuda {
namespace {

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
  // weights: bf16 or e4m3
  CudaBackend(const Library& library, DType weights)
      : api_(*library.api), name_(library.name), weights_(weights) {
    const Status status = api_.open(library.device, &context_);
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
  ~CudaBackend() override { api_.close(context_); }
  CudaBackend(const CudaBackend&) = delete;
  CudaBackend& operator=(const CudaBackend&) = delete;

  std::string name() const override { return name_; }
  DType operand_dtype() const override { return DType::bf16; }
  DType weight_dtype() const override { return weights_; }
  bool only_frame_dit() const override { return true; }
  int threads() const override { return 1; }
  bool records() const override { return true; }

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

  int64_t row_stride(int64_t cols, DType) const override { return padded_cols(cols); }
  int64_t padded_rows(int64_t rows) const override { return cuda::padded_rows(rows); }
  int64_t weight_bytes(int64_t n, int64_t k) const override {
    return weights_ == DType::e4m3 ? e4m3_bytes(n, k) + n * int64_t(sizeof(float))
                                   : cuda::padded_rows(n) * padded_cols(k) * int64_t(sizeof(Half));
  }
  int64_t query_bytes(int64_t heads, int64_t tokens, int64_t dim) const override {
    return heads * padded_queries(tokens) * dim * int64_t(sizeof(Half));
  }
  int64_t slot_bytes(int64_t heads, int64_t tokens, int64_t dim) const override {
    return 2 * heads * padded_keys(tokens) * dim * int64_t(sizeof(Half));
  }

  // [padded n, padded k]: rows as they are, the rest stays zero
  void pack_weight(const float* w, int64_t n, int64_t k, void* packed) override {
    if (weights_ == DType::e4m3) return pack_e4m3(w, n, k, packed);
    std::vector<Half> rows(static_cast<size_t>(n * padded_cols(k)));
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < k; ++j) rows[size_t(i * padded_cols(k) + j)] = to_half(w[i * k + j]);
    upload(packed, rows.data(), int64_t(rows.size() * sizeof(Half)));
  }

  void matmul(const MatmulArgs& a) override {
    check(weights_ == DType::e4m3 ? api_.quantized_matmul(context_, &a)
                                  : api_.matmul(context_, &a));
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
    throw BackendError(
        status == Status::out_of_memory ? what : what + "; the device is lost to this session");
  }

  const Api& api_;
  std::string name_;
  DType weights_;
  Context* context_ = nullptr;
};

}  // namespace
}  // namespace cuda

std::unique_ptr<Backend> make_cuda_backend(const std::string& which,
                                           std::optional<DType> precision) {
  const cuda::Library library = cuda::open_library(which.c_str());
  if (!library.api) throw BackendError(library.problem);
  if (precision == DType::f32 || precision == DType::i8)
    throw BackendError(
        "expected precision auto, bfloat16 or float8 (what CUDA devices compute in), got " +
        std::string(precision == DType::f32 ? "float32" : "int8"));
  return std::make_unique<cuda::CudaBackend>(library, precision.value_or(DType::bf16));
}

}  // namespace rtfm
