// SPDX-License-Identifier: Apache-2.0
// The CPU behind csrc/backend.h: a tier's kernels on a pool of threads.
#include "csrc/backend.h"

#include <cstring>
#include <stdexcept>
#include <vector>

#include "csrc/cpu/cpu_info.h"
#include "csrc/cpu/memory.h"
#include "csrc/cpu/pool.h"

namespace rtfm {
namespace cpu {
namespace {

constexpr int kMaxThreads = 256;

struct alignas(kAlignment) Line {
  char bytes[kAlignment];
};

class CpuBackend final : public Backend {
 public:
  CpuBackend(const Kernels& kernels, int threads) : kernels_(kernels), pool_(threads) {}

  std::string name() const override { return std::string("cpu:") + kernels_.name; }
  DType operand_dtype() const override { return kernels_.operand; }
  DType weight_dtype() const override { return kernels_.weights; }
  int threads() const override { return pool_.threads(); }

  void* allocate(int64_t bytes) override { return cpu::allocate(bytes); }
  void release(void* memory, int64_t bytes) noexcept override { cpu::release(memory, bytes); }
  void upload(void* device, const void* host, int64_t bytes) override {
    std::memcpy(device, host, size_t(bytes));
  }
  void download(void* host, const void* device, int64_t bytes) override {
    std::memcpy(host, device, size_t(bytes));
  }
  void copy(void* to, const void* from, int64_t bytes) override {
    std::memcpy(to, from, size_t(bytes));
  }
  void finish() override {}
  bool records() const override { return false; }

  // Rows start on cache lines, one line off a power of two so that strips of rows do not collide.
  int64_t row_stride(int64_t cols, DType dtype) const override {
    const int64_t line = kAlignment / size_of(dtype);
    return (cols + line - 1) / line * line + line;
  }
  int64_t padded_rows(int64_t rows) const override {
    const int64_t p = kernels_.row_padding;
    return (rows + p - 1) / p * p;
  }
  int64_t weight_bytes(int64_t n, int64_t k, DType stored) const override {
    return kernels_.weight_bytes(n, k, stored);
  }
  int64_t query_bytes(int64_t heads, int64_t tokens, int64_t dim) const override {
    return kernels_.query_bytes(heads, tokens, dim);
  }
  int64_t slot_bytes(int64_t heads, int64_t tokens, int64_t dim) const override {
    return kernels_.slot_bytes(heads, tokens, dim);
  }
  void pack_weight(const float* w, int64_t n, int64_t k, DType stored, void* packed) override {
    kernels_.pack_weight(w, n, k, stored, packed);
  }

  void matmul(const MatmulArgs& a) override {
    if (kernels_.weights != DType::i8) return launch(kernels_.matmul, a);
    const int64_t stride = kernels_.quantized_stride(a.k);
    const size_t lines = size_t(padded_rows(a.rows) * stride / kAlignment);
    if (quantized_.size() < lines) quantized_.resize(lines);
    launch(
        kernels_.quantize,
        QuantizeArgs{
            .x = a.x, .q = quantized_.data(), .x_stride = a.x_stride, .rows = a.rows, .cols = a.k});
    MatmulArgs quantized = a;
    quantized.x = quantized_.data(), quantized.x_stride = stride;
    launch(kernels_.matmul, quantized);
  }
  void norm_modulate(const NormModulateArgs& a) override { launch(kernels_.norm_modulate, a); }
  void qkv_split(const QkvSplitArgs& a) override { launch(kernels_.qkv_split, a); }
  void gather(const GatherArgs& a) override { launch(kernels_.gather, a); }
  void attention(const AttentionArgs& a) override { launch(kernels_.attention, a); }
  void sampler(const SamplerArgs& a) override { launch(kernels_.sampler, a); }
  void patchify(const PatchifyArgs& a) override { launch(kernels_.patchify, a); }
  void unpatchify(const UnpatchifyArgs& a) override { launch(kernels_.unpatchify, a); }
  int64_t kernel_bytes(int64_t n, int64_t k) const override { return kernels_.kernel_bytes(n, k); }
  void pack_kernel(const float* w, int64_t n, int64_t k, void* packed) override {
    kernels_.pack_kernel(w, n, k, packed);
  }
  void convolution(const ConvolutionArgs& a) override { launch(kernels_.convolution, a); }
  void state_load(const StateCopyArgs& a) override {
    const std::byte* state = static_cast<const std::byte*>(a.inputs->state);
    std::memcpy(a.memory, state + a.offset, size_t(a.bytes));
  }
  void state_store(const StateCopyArgs& a) override {
    std::byte* state = static_cast<std::byte*>(a.inputs->next_state);
    std::memcpy(state + a.offset, a.memory, size_t(a.bytes));
  }
  void ray_patches(const RayPatchesArgs& a) override { launch(kernels_.ray_patches, a); }
  void time_attention(const TimeAttentionArgs& a) override { launch(kernels_.time_attention, a); }
  void condition(const ConditionArgs& a) override { launch(kernels_.condition, a); }
  void save_frame(const SaveFrameArgs& a) override { launch(kernels_.save_frame, a); }
  void load_frame(const LoadFrameArgs& a) override { launch(kernels_.load_frame, a); }
  void group(const GroupArgs& a) override { launch(kernels_.group, a); }
  void ungroup(const UngroupArgs& a) override { launch(kernels_.ungroup, a); }

 protected:
  void replay(std::unique_ptr<Recording>&, void (*work)(const void*), const void* f) override {
    work(f);
  }

 private:
  template <class Args>
  void launch(const Kernel<Args>& kernel, const Args& args) {
    const int64_t tasks = kernel.tasks(args, pool_.threads());
    pool_.run(tasks, [&](int64_t task) { kernel.run(args, task, tasks); });
  }

  const Kernels& kernels_;
  Pool pool_;
  std::vector<Line> quantized_;  // x of a matmul in int8; as large as the largest so far
};

}  // namespace
}  // namespace cpu

std::unique_ptr<Backend> make_cpu_backend(const std::string& tier, std::optional<DType> precision,
                                          int threads) {
  const std::vector<const cpu::Kernels*> tiers = cpu::available_tiers();
  std::string names;
  for (const cpu::Kernels* t : tiers) names += (names.empty() ? "" : ", ") + std::string(t->name);
  const char* wanted = !precision                  ? "any precision"
                       : *precision == DType::bf16 ? "bfloat16"
                       : *precision == DType::e4m3 ? "float8"
                       : *precision == DType::i8   ? "int8"
                                                   : "float32";
  if (threads < 0 || threads > cpu::kMaxThreads)
    throw std::invalid_argument("threads: expected 1 to " + std::to_string(cpu::kMaxThreads) +
                                ", or 0 for one per CPU, got " + std::to_string(threads));
  for (const cpu::Kernels* t : tiers)
    if ((tier.empty() || tier == t->name) && (!precision || *precision == t->weights))
      return std::make_unique<cpu::CpuBackend>(*t, threads ? threads : cpu::available_cpus());
  throw std::invalid_argument("cpu: no tier '" + (tier.empty() ? "auto" : tier) + "' with " +
                              wanted + "; this CPU and build offer " + names +
                              " (bfloat16 is what amx and avx512_bf16 compute in, which want "
                              "AMX-BF16 and AVX512-BF16; int8 what amx_int8, vnni, avx_vnni and "
                              "sdot multiply in, which want "
                              "AMX-INT8, AVX512-VNNI, AVX-VNNI and, on aarch64, SDOT; float32 all "
                              "others; float8 wants a GPU)");
}

}  // namespace rtfm
