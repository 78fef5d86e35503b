// SPDX-License-Identifier: Apache-2.0
// The contract of a device: plain data in, plain data out. One Args struct and one virtual per op;
// csrc/cpu and csrc/cuda implement it and know nothing else of each other or of src/.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

namespace rtfm {

enum class DType : uint8_t { f32, bf16, e4m3, i8 };

constexpr int64_t size_of(DType t) { return t == DType::f32 ? 4 : t == DType::bf16 ? 2 : 1; }

// "Operand" below is the backend's compute dtype (f32 or bf16): what a matmul or attention reads.
// All other activations are f32. Matrices are row-major; *_stride counts elements between rows.
// A page holds, for each layer, K then V, each [heads, tokens, dim] operand.

constexpr int kMaxPages = 32;
constexpr int kMaxActions = 320;

// A pinhole camera in the gauge of a model, principal point in the middle.
struct Camera {
  float pose[12];  // camera-to-world, row-major 3x4
  float fx, fy;    // in units of image width and height
};

// What differs from step to step. It lies in device memory, where ops read it, so that work
// recorded once can be launched again for other pages, poses and frames.
struct StepInputs {
  const void* pages[kMaxPages];     // the page of context slot 1, 2, ...
  float transforms[kMaxPages][16];  // its M, row-major 4x4: P_query · P_page⁻¹
  uint64_t seed, frame;             // of the noise
  void* page;                       // that a read pass fills
  Camera camera;                    // of the frame
  float actions[kMaxActions];       // that lead to the frame
  const void* state;                // that the frames before it left; null: none did
  void* next_state;                 // that a pass leaves
};

enum class Epilogue : uint8_t {
  store,           // y = r                      y: f32
  gelu,            // y = gelu_tanh(r)           y: operand
  gated_residual,  // y += gate * r              y: f32
  gelu_erf,        // y = gelu(r), exact         y: operand
  silu,            // y = r * sigmoid(r)         y: operand
  relu,            // y = max(r, 0)              y: operand
  signed_sigmoid,  // y = 2 * sigmoid(r) - 1     y: f32
  operand,         // y = r                      y: operand
  residual_relu    // y = max(residual + r, 0)   y: operand
};

// r[rows, n] = x[rows, k] · wᵀ + bias, then the epilogue.
struct MatmulArgs {
  const void* x;      // [rows, k] operand
  const void* w;      // [n, k] as pack_weight left it
  const float* bias;  // [n], or null for none
  const float* gate;  // [n], gated_residual only; null for ones
  void* y;            // [rows, n]
  int64_t x_stride, y_stride;
  int64_t rows, n, k;
  Epilogue epilogue;
  DType stored = DType::f32;       // of w, as pack_weight was told
  const void* residual = nullptr;  // [rows, n] operand, residual_relu only
  int64_t residual_stride = 0;
};

// r = the products of a kernel of side x side with what it sees of x and, channel after channel, of
// `past`, at every stride-th place; zeros lie around. Then the epilogue.
struct ConvolutionArgs {
  const void* x;         // [height * width, channels] operand
  const void* past;      // [height * width, past_channels] operand; null for zeros
  const void* w;         // [n, side * side * (channels + past_channels)] in order (row, column,
                         // channel), as pack_kernel left it
  const float* bias;     // [n], or null for none
  const void* residual;  // [rows * cols, n] operand, residual_relu only
  void* y;               // [rows * cols, n]
  int64_t x_stride, past_stride, residual_stride, y_stride;
  int64_t height, width, channels, past_channels;
  int64_t zoom;  // x is seen with every place repeated zoom x zoom times
  int64_t side, stride, padding, n;
  Epilogue epilogue;

  int64_t rows() const { return (height * zoom + 2 * padding - side) / stride + 1; }
  int64_t cols() const { return (width * zoom + 2 * padding - side) / stride + 1; }
};

enum class Norm : uint8_t { rms, layer };
enum class Activation : uint8_t { none, silu };

// y = x / sqrt(mean(x²) + eps) * scale + shift, row by row; layer: of x less its mean. `scale`
// already holds the 1 + of adaLN. Then the activation.
struct NormModulateArgs {
  const float* x;      // [rows, cols]
  const float* scale;  // [cols]
  const float* shift;  // [cols]
  void* y;             // [rows, cols] operand
  int64_t x_stride, y_stride;
  int64_t rows, cols;
  float eps;
  Norm norm;
  Activation activation = Activation::none;
};

// Brings queries, keys and values into the heads that attention reads. q and k: RMS norm over dim,
// times gain, then the last 2 * rope dims turn by the angles of their token (half-split pairs i,
// i + rope). q is scaled for a softmax in powers of two (log2(e)/sqrt(dim)). K and V go into
// context slot `slot` and, where there are inputs, to layer `layer` of inputs->page.
struct QkvSplitArgs {
  const float* q;            // [tokens, heads * dim]; null for no queries
  const float* k;            // [tokens, kv_heads * dim]; null for neither keys nor values
  const float* v;            // [tokens, kv_heads * dim]
  const float* q_gain;       // [dim]; null for no norm
  const float* k_gain;       // [dim]; null for no norm
  const float* cos;          // [tokens, rope]
  const float* sin;          // [tokens, rope]
  void* query;               // query_bytes(heads, tokens, dim)
  void* slot;                // one context slot; null for none
  const StepInputs* inputs;  // null for no page
  int64_t layer;             // of the page
  int64_t stride;            // of q, k and v
  int64_t tokens, heads, kv_heads, dim, rope;
  float eps;
};

// Brings inputs->pages[first_page ...] into context slots 1..pages of `layers` layers of the
// context, as the query camera sees them: in every group of 4 consecutive dims of the first
// camera_dims, k ← M k and v ← M v. heads: of keys and values. Where camera_dims is 0 a device may
// leave them where they are: pages stay as they are until nothing attends to those slots any more.
struct GatherArgs {
  const StepInputs* inputs;
  void* context;  // [layers, slots] of slot_bytes
  int64_t first_page, pages;
  int64_t slots, slot_bytes;
  int64_t first_layer, layers;  // of the pages
  int64_t tokens, heads, dim, camera_dims;
};

// y = w·v / Σw, w = 2^(q · kᵀ), over all keys of `slots` consecutive context slots, head by head;
// heads / kv_heads consecutive query heads share a head of keys and values.
struct AttentionArgs {
  const void* q;        // query_bytes(heads, tokens, dim)
  const void* context;  // [slots] of slot_bytes(kv_heads, tokens, dim)
  void* y;              // [tokens, heads * dim] operand
  int64_t y_stride;
  int64_t slots, tokens, heads, kv_heads, dim;
};

// One step of any linear sampler: x ← a·x + b·x0 + c·noise, and the operand copy of x that the next
// step reads. Element e of the frame in `inputs` at `step` draws normal(seed; frame, step, e): the
// same number on every device (Philox 4x32-10, Box-Muller).
struct SamplerArgs {
  float* x;         // [rows, cols]
  const float* x0;  // [rows, cols]
  void* operand;    // [rows, cols] operand; null for none
  const StepInputs* inputs;
  int64_t x_stride, x0_stride, operand_stride;
  int64_t rows, cols;
  float a, b, c;
  uint32_t step;
};

// tokens[i] = the i-th p×p patch of an RGB image, order (row, column, channel): pixel / divisor -
// offset.
struct PatchifyArgs {
  const uint8_t* image;  // [height, width, 3]
  void* tokens;          // [height/p * width/p, 3*p*p] operand
  int64_t tokens_stride;
  int64_t height, width, patch;
  float divisor = 127.5f, offset = 1.f;  // values in [-1, 1]
};

// The inverse: image = round(clamp((x + offset) * divisor, 0, 255)).
struct UnpatchifyArgs {
  const float* tokens;  // [height/p * width/p, 3*p*p]
  uint8_t* image;       // [height, width, 3]
  int64_t tokens_stride;
  int64_t height, width, patch;
  float divisor = 127.5f, offset = 1.f;
};

// Between memory and `offset` bytes into a state: load from inputs->state, store to next_state.
struct StateCopyArgs {
  const StepInputs* inputs;
  void* memory;
  int64_t offset, bytes;
};

// tokens[i] = the i-th p×p patch of what a pixel shows and where it lies: of each pixel, in order
// (row, column), [2·rgb/255 - 1, o×d, d], or [o×d, d] without an image. o: the centre of the camera
// of the inputs; d: the unit direction through the middle of the pixel.
struct RayPatchesArgs {
  const uint8_t* image;  // [height, width, 3]; null for none
  const StepInputs* inputs;
  void* tokens;  // [height/p * width/p, (image ? 9 : 6)*p*p] operand
  int64_t tokens_stride;
  int64_t height, width, patch;
};

// Attention over time: the queries of a token see, head by head, the keys and values of the same
// token in inputs->pages and then its own. Pages hold keys as they come; between a query and those
// of page i lie the angles 1 + i (all dims of a head, half-split pairs), between it and its own the
// angles 0. Such a page holds, for each layer, K then V, each [tokens, heads * dim] operand; the
// own ones go to inputs->page if there is one.
struct TimeAttentionArgs {
  const float* q;    // [tokens, heads * dim]
  const float* k;    // [tokens, heads * dim]
  const float* v;    // [tokens, heads * dim]
  const float* cos;  // [1 + pages, dim / 2]
  const float* sin;  // [1 + pages, dim / 2]
  const StepInputs* inputs;
  void* y;  // [tokens, heads * dim] operand; null for the page only
  int64_t stride, y_stride;
  int64_t layer, pages, tokens, heads, dim;  // heads <= 128, heads * dim <= 8192
};

// y = silu(base + weightᵀ · actions), row by row: what modulation is made from.
struct ConditionArgs {
  const float* base;     // [rows, cols]
  const float* weight;   // [count, cols]
  const float* actions;  // [count]
  void* y;               // [rows, cols] operand
  int64_t y_stride;
  int64_t rows, cols, count;
};

// What a frame is made again from: its latent x and then the actions that led to it, at `offset`
// bytes of inputs->page. save_frame takes the actions from the inputs.
struct SaveFrameArgs {
  const float* x;  // [rows, cols]
  const StepInputs* inputs;
  int64_t x_stride;
  int64_t rows, cols, actions, offset;
};
struct LoadFrameArgs {
  float* x;        // [rows, cols]
  float* actions;  // [count]
  const StepInputs* inputs;
  int64_t x_stride;
  int64_t rows, cols, count, offset;
};

// tokens[i] = the i-th p×p square of a grid, order (row, column, channel).
struct GroupArgs {
  const float* grid;  // [height * width, channels]
  float* tokens;      // [height/p * width/p, p*p*channels]
  int64_t grid_stride, tokens_stride;
  int64_t height, width, channels, patch;
};

// The inverse, and limit * tanh(x / limit) of each value.
struct UngroupArgs {
  const float* tokens;  // [height/p * width/p, p*p*channels]
  void* grid;           // [height * width, channels] operand
  int64_t tokens_stride, grid_stride;
  int64_t height, width, channels, patch;
  float limit = 0;  // 0: values as they are
};

// A device that failed: out of memory, or lost.
struct BackendError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// What a backend recorded of one piece of work; null until it was replayed for the first time.
class Recording {
 public:
  virtual ~Recording() = default;
};

// One execution context on one device: a stream, a thread pool. Not thread-safe. Ops and uploads
// may still be under way when their call returns; they happen in order. Once finish() has returned,
// another backend of the same device may read what this one wrote (sessions share a model so).
class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string name() const = 0;     // "cpu:avx512", "cuda:0"
  virtual DType operand_dtype() const = 0;  // also the dtype of pages
  virtual DType weight_dtype() const {
    return operand_dtype();
  }  // or e4m3, i8: a scale for each row
  virtual int threads() const = 0;  // host threads that compute; 1 on a GPU
  // Memory, zero-filled, aligned for every op. Kernels rely on the zeros of the padding. These two
  // may be called from any thread.
  virtual void* allocate(int64_t bytes) = 0;
  virtual void release(void* memory, int64_t bytes) noexcept = 0;
  virtual void upload(void* device, const void* host, int64_t bytes) = 0;    // host: free at once
  virtual void download(void* host, const void* device, int64_t bytes) = 0;  // complete at once
  virtual void copy(void* to, const void* from, int64_t bytes) = 0;          // both on the device
  virtual void finish() = 0;  // waits until all that was asked for is done

  // GPUs only, for frames that stay there. ordinal: which one; -1 for a CPU.
  virtual int ordinal() const { return -1; }
  // What is asked for from here on waits for what that stream (a cudaStream_t) was given before.
  virtual void follow(uint64_t) { refuse("follow"); }
  // A download of what is finished, from any thread.
  virtual void fetch(void*, const void*, int64_t) { refuse("fetch"); }
  // The cuBLASLt that multiplies and what it is not used for, or why it is not: "cuBLASLt 13.0.2",
  // "no cuBLASLt: ..."; "" if none was given.
  virtual std::string cublas() const { return ""; }

  // Does `work`, a function that calls ops only: ops whose arguments are the same whenever it is
  // replayed with this recording. A device that can launch recorded work does so.
  template <class F>
  void replay(std::unique_ptr<Recording>& recording, const F& work) {
    replay(recording, [](const void* f) { (*static_cast<const F*>(f))(); }, &work);
  }
  // Whether it can; then recording ahead of time keeps the first frames from waiting for it.
  virtual bool records() const = 0;

  // Layouts that differ between devices, by size only.
  virtual int64_t row_stride(int64_t cols, DType dtype) const = 0;  // elements; >= cols
  virtual int64_t padded_rows(int64_t rows) const = 0;              // rows to allocate
  virtual int64_t weight_bytes(int64_t n, int64_t k, DType stored) const = 0;
  virtual int64_t query_bytes(int64_t heads, int64_t tokens, int64_t dim) const = 0;
  virtual int64_t slot_bytes(int64_t heads, int64_t tokens, int64_t dim) const = 0;

  // stored: bf16 if every number of w is exact in it, else f32. Devices that compute in f32 keep w
  // as narrow as that.
  virtual void pack_weight(const float* w, int64_t n, int64_t k, DType stored, void* packed) = 0;

  virtual void matmul(const MatmulArgs&) = 0;
  virtual void norm_modulate(const NormModulateArgs&) = 0;
  virtual void qkv_split(const QkvSplitArgs&) = 0;
  virtual void gather(const GatherArgs&) = 0;
  virtual void attention(const AttentionArgs&) = 0;
  virtual void sampler(const SamplerArgs&) = 0;
  virtual void patchify(const PatchifyArgs&) = 0;
  virtual void unpatchify(const UnpatchifyArgs&) = 0;

  // Of single families. Kernels of convolutions are operands.
  virtual int64_t kernel_bytes(int64_t, int64_t) const { refuse("convolution"); }
  virtual void pack_kernel(const float*, int64_t, int64_t, void*) { refuse("convolution"); }
  virtual void convolution(const ConvolutionArgs&) { refuse("convolution"); }
  virtual void state_load(const StateCopyArgs&) { refuse("state_load"); }
  virtual void state_store(const StateCopyArgs&) { refuse("state_store"); }
  virtual void ray_patches(const RayPatchesArgs&) { refuse("ray_patches"); }
  virtual void time_attention(const TimeAttentionArgs&) { refuse("time_attention"); }
  virtual void condition(const ConditionArgs&) { refuse("condition"); }
  virtual void save_frame(const SaveFrameArgs&) { refuse("save_frame"); }
  virtual void load_frame(const LoadFrameArgs&) { refuse("load_frame"); }
  virtual void group(const GroupArgs&) { refuse("group"); }
  virtual void ungroup(const UngroupArgs&) { refuse("ungroup"); }

 protected:
  virtual void replay(std::unique_ptr<Recording>& recording, void (*work)(const void*),
                      const void* closure) = 0;
  [[noreturn]] void refuse(const char* op) const {
    throw BackendError(name() + ": expected an op of this device, got " + op + "; use the CPU");
  }
};

// tier: "" for the best one that this CPU allows (with `precision`, when given), or "portable",
// "avx2", "avx512", "avx512_bf16", "amx", "amx_int8", "vnni", "avx_vnni", "sdot". threads: 0 for
// one per CPU of the caller's affinity mask, else 1..256. Throws std::invalid_argument for what the
// CPU lacks.
std::unique_ptr<Backend> make_cpu_backend(const std::string& tier, std::optional<DType> precision,
                                          int threads);

// which: "" for the first GPU, or its number. Throws BackendError: no driver, too old a driver, no
// such device, no CUDA in this build, another precision than bf16 or, where the GPU has it, e4m3;
// the message says what to do. cublas: the path of libcublasLt.so.13, for what it multiplies; ""
// for none.
std::unique_ptr<Backend> make_cuda_backend(const std::string& which, std::optional<DType> precision,
                                           const std::string& cublas);

// How many GPUs answer; 0 where a driver or CUDA in this build is missing.
int cuda_devices();

}  // namespace rtfm
