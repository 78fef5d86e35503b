// SPDX-License-Identifier: Apache-2.0
// A libcublasLt.so.13 in plain loops over cudart_emulator.cc: it multiplies when its stream comes
// to it, refuses what NVIDIA's does, and writes all over the workspace that it asked for. Built by
// test_cublas.py, which gives VERSION, WITHOUT (a function that is missing) and MIXED_BIAS.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <vector>

#include "csrc/cuda/body.h"
#include "csrc/cuda/cublaslt.h"

#ifndef VERSION
#define VERSION 130002
#endif

extern "C" bool emulated_device_memory(const void* start, int64_t bytes);

using namespace rtfm::cuda;
using lt::Status;

namespace rtfm::cuda::lt {
struct HandleOf {};
struct DescOf {
  std::map<DescAttribute, std::vector<char>> values;
  template <class T>
  T get(DescAttribute a, T otherwise) const {
    const auto found = values.find(a);
    if (found != values.end()) std::memcpy(&otherwise, found->second.data(), sizeof(T));
    return otherwise;
  }
};
struct LayoutOf {
  cudaDataType_t type;
  int64_t rows, cols, stride;
  int64_t element() const { return type == CUDA_R_32F ? 4 : 2; }
  int64_t bytes() const { return ((cols - 1) * stride + rows) * element(); }
  bool operator==(const LayoutOf&) const = default;
};
struct PreferenceOf {
  std::map<PreferenceAttribute, uint64_t> values;
};
}  // namespace rtfm::cuda::lt

namespace {

constexpr int kRough = 1000;  // an algorithm that adds up in bf16

struct Settings {  // how it behaves, as tests ask for
  int proposals = 3;
  int64_t workspace = 4096;
  int status = 0;       // of every Matmul
  int wrong_form = -1;  // an epilogue that adds 1 to its results
  std::atomic<int> multiplied{0}, planned{0}, descriptors{0};
} settings;

float value(const void* base, const lt::LayoutOf& m, int64_t row, int64_t col) {
  const int64_t at = col * m.stride + row;
  return m.type == CUDA_R_32F ? static_cast<const float*>(base)[at]
                              : from_half(static_cast<const Half*>(base)[at]);
}

// All that one Matmul needs when its turn comes; recorded work comes back to it.
struct Job {
  lt::DescOf desc;
  lt::LayoutOf a, b, d;
  const void *alpha, *left, *right;
  float host_alpha, beta;
  void *y, *workspace;
  int64_t workspace_bytes;
  int rank;

  float result(int64_t row, int64_t col) const {
    const auto mode = desc.get(lt::DescAttribute::pointer_mode, lt::PointerMode::host);
    const auto epilogue = desc.get(lt::DescAttribute::epilogue, lt::Epilogue::none);
    float sum = 0;  // in an order that differs from algorithm to algorithm
    for (int64_t i = 0, j = rank % a.rows; i < a.rows; ++i, j = (j + 1) % a.rows) {
      sum += value(left, a, j, row) * value(right, b, j, col);
      if (rank == kRough) sum = from_half(to_half(sum));
    }
    sum *= mode == lt::PointerMode::host ? host_alpha : static_cast<const float*>(alpha)[row];
    if (beta != 0) sum += beta * value(y, d, row, col);
    const uint32_t bits = uint32_t(epilogue);
    if (bits & uint32_t(lt::Epilogue::bias)) {
      const auto* bias = desc.get<const float*>(lt::DescAttribute::bias_pointer, nullptr);
      sum += bias[row];
    }
    if (bits & uint32_t(lt::Epilogue::gelu))
      sum = 0.5f * sum * (1 + std::tanh(0.7978845608f * (sum + 0.044715f * sum * sum * sum)));
    return sum + (int(bits) == settings.wrong_form ? 1 : 0);
  }
  void operator()() const {
    if (workspace_bytes) std::memset(workspace, 0x7f, size_t(workspace_bytes));
    for (int64_t col = 0; col < d.cols; ++col)
      for (int64_t row = 0; row < d.rows; ++row) {
        const float r = result(row, col);
        if (d.type == CUDA_R_32F)
          static_cast<float*>(y)[col * d.stride + row] = r;
        else
          static_cast<Half*>(y)[col * d.stride + row] = to_half(r);
      }
    ++settings.multiplied;
  }
};
std::deque<Job> jobs;
std::mutex mutex;

bool aligned(const void* p, uint64_t to) { return reinterpret_cast<uintptr_t>(p) % to == 0; }

// What of `desc` and the layouts the library has code for.
Status supported(const lt::DescOf& desc, const lt::LayoutOf& a, const lt::LayoutOf& b,
                 const lt::LayoutOf& c, const lt::LayoutOf& d) {
  if (desc.get(lt::DescAttribute::operation_a, 0) != int(lt::Operation::transposed))
    return Status::not_supported;
  if (a.type != CUDA_R_16BF || b.type != CUDA_R_16BF || !(c == d)) return Status::not_supported;
  if (a.rows != b.rows || a.cols != d.rows || b.cols != d.cols) return Status::invalid_value;
  const auto epilogue = uint32_t(desc.get(lt::DescAttribute::epilogue, lt::Epilogue::none));
  if (!(epilogue & uint32_t(lt::Epilogue::bias))) return Status::success;
  const void* bias = desc.get<const void*>(lt::DescAttribute::bias_pointer, nullptr);
  if (!bias || !aligned(bias, 16)) return Status::invalid_value;
#ifndef MIXED_BIAS
  if (desc.get(lt::DescAttribute::bias_data_type, int32_t(d.type)) != d.type)
    return Status::not_supported;
#endif
  return Status::success;
}

// An algorithm remembers what it was proposed for.
uint64_t signature(const lt::LayoutOf& a, const lt::LayoutOf& b, const lt::LayoutOf& d) {
  uint64_t hash = 1;
  for (const int64_t x : {a.rows, a.cols, b.cols, a.stride, b.stride, d.stride, int64_t(d.type)})
    hash = hash * 1099511628211u + uint64_t(x);
  return hash;
}

template <class T>
Status made(T** where, T* object) {
  *where = object;
  ++settings.descriptors;
  return Status::success;
}
template <class T>
Status dropped(T* object) {
  delete object;
  --settings.descriptors;
  return Status::success;
}

}  // namespace

extern "C" {

size_t cublasLtGetVersion() { return VERSION; }
const char* cublasLtGetStatusName(Status s) {
  return s == Status::not_supported ? "CUBLAS_STATUS_NOT_SUPPORTED" : "CUBLAS_STATUS_EMULATED";
}
Status cublasLtCreate(lt::Handle* handle) {
  if (settings.status < 0) return Status(-settings.status);
  return made(handle, new lt::HandleOf);
}
Status cublasLtDestroy(lt::Handle handle) { return dropped(handle); }

Status cublasLtMatmulDescCreate(lt::Desc* desc, lt::Compute compute, cudaDataType_t scale) {
  if (compute != lt::Compute::f32 || scale != CUDA_R_32F) return Status::invalid_value;
  return made(desc, new lt::DescOf);
}
Status cublasLtMatmulDescDestroy(lt::Desc desc) { return dropped(desc); }
Status cublasLtMatmulDescSetAttribute(lt::Desc desc, lt::DescAttribute what, const void* value,
                                      size_t bytes) {
  const std::map<lt::DescAttribute, size_t> sizes = {{lt::DescAttribute::pointer_mode, 4},
                                                     {lt::DescAttribute::operation_a, 4},
                                                     {lt::DescAttribute::epilogue, 4},
                                                     {lt::DescAttribute::bias_pointer, 8},
                                                     {lt::DescAttribute::bias_data_type, 4}};
  const auto found = sizes.find(what);
  if (found == sizes.end() || found->second != bytes || !value) return Status::invalid_value;
  const char* start = static_cast<const char*>(value);
  desc->values[what] = std::vector<char>(start, start + bytes);
  return Status::success;
}

Status cublasLtMatrixLayoutCreate(lt::Layout* layout, cudaDataType_t type, uint64_t rows,
                                  uint64_t cols, int64_t stride) {
  if (!rows || !cols || stride < int64_t(rows)) return Status::invalid_value;
  return made(layout, new lt::LayoutOf{type, int64_t(rows), int64_t(cols), stride});
}
Status cublasLtMatrixLayoutDestroy(lt::Layout layout) { return dropped(layout); }

Status cublasLtMatmulPreferenceCreate(lt::Preference* preference) {
  return made(preference, new lt::PreferenceOf);
}
Status cublasLtMatmulPreferenceDestroy(lt::Preference preference) { return dropped(preference); }
Status cublasLtMatmulPreferenceSetAttribute(lt::Preference preference, lt::PreferenceAttribute what,
                                            const void* value, size_t bytes) {
  if (bytes != (what == lt::PreferenceAttribute::workspace_bytes ? 8 : 4))
    return Status::invalid_value;
  std::memcpy(&preference->values[what], value, bytes);
  return Status::success;
}

// Without the caller's word it expects matrices on 256 bytes, and adds up in bf16.
Status cublasLtMatmulAlgoGetHeuristic(lt::Handle, lt::Desc desc, lt::Layout a, lt::Layout b,
                                      lt::Layout c, lt::Layout d, lt::Preference preference,
                                      int most, lt::Proposal* proposals, int* found) {
  *found = 0;
  ++settings.planned;
  if (most < 1) return Status::invalid_value;
  const Status status = supported(*desc, *a, *b, *c, *d);
  if (status != Status::success) return status;
  const auto wish = [&](lt::PreferenceAttribute what, uint64_t otherwise) {
    const auto given = preference->values.find(what);
    return given == preference->values.end() ? otherwise : given->second;
  };
  const uint64_t alignment_y = std::max(wish(lt::PreferenceAttribute::alignment_c, 256),
                                        wish(lt::PreferenceAttribute::alignment_d, 256));
  const bool steady = wish(lt::PreferenceAttribute::reduction_schemes, 7) == 2;
  if (wish(lt::PreferenceAttribute::workspace_bytes, 0) < uint64_t(settings.workspace))
    return Status::not_supported;
  for (; *found < std::min(most, settings.proposals); ++*found) {
    lt::Proposal& p = proposals[*found] = {};
    p.algorithm = {{signature(*a, *b, *d), steady ? uint64_t(*found) : kRough,
                    wish(lt::PreferenceAttribute::alignment_a, 256),
                    wish(lt::PreferenceAttribute::alignment_b, 256), alignment_y}};
    p.workspace_bytes = size_t(settings.workspace);
  }
  return *found ? Status::success : Status::not_supported;
}

#ifndef WITHOUT_MATMUL
Status cublasLtMatmul(lt::Handle handle, lt::Desc desc, const void* alpha, const void* left,
                      lt::Layout a, const void* right, lt::Layout b, const void* beta,
                      const void* c_data, lt::Layout c, void* y, lt::Layout d,
                      const lt::Algorithm* algorithm, void* workspace, size_t bytes,
                      cudaStream_t stream) {
  if (settings.status > 0) return Status(settings.status);
  if (!handle || c_data != y || algorithm->data[0] != signature(*a, *b, *d))
    return Status::invalid_value;
  if (const Status s = supported(*desc, *a, *b, *c, *d); s != Status::success) return s;
  const auto lies = [](const void* p, const lt::LayoutOf& m, uint64_t on) {
    return aligned(p, on) && m.stride * m.element() % int64_t(on) == 0;
  };
  if (!lies(left, *a, algorithm->data[2]) || !lies(right, *b, algorithm->data[3]) ||
      !lies(y, *d, algorithm->data[4]))
    return Status::invalid_value;
  if (int64_t(bytes) < settings.workspace || !emulated_device_memory(workspace, int64_t(bytes)))
    return Status::invalid_value;
  const auto mode = desc->get(lt::DescAttribute::pointer_mode, lt::PointerMode::host);
  const bool vector = mode == lt::PointerMode::alpha_vector_beta_host;
  if (vector && !emulated_device_memory(alpha, d->rows * 4)) return Status::invalid_value;
  const auto epilogue = uint32_t(desc->get(lt::DescAttribute::epilogue, lt::Epilogue::none));
  const void* bias = desc->get<const void*>(lt::DescAttribute::bias_pointer, nullptr);
  if (epilogue & uint32_t(lt::Epilogue::bias) && !emulated_device_memory(bias, d->rows * 4))
    return Status::invalid_value;
  if (!emulated_device_memory(left, a->bytes()) || !emulated_device_memory(right, b->bytes()) ||
      !emulated_device_memory(y, d->bytes()))
    return Status::invalid_value;
  const std::lock_guard<std::mutex> lock(mutex);
  jobs.push_back({*desc, *a, *b, *d, alpha, left, right,
                  vector ? 0.f : *static_cast<const float*>(alpha),
                  *static_cast<const float*>(beta), y, workspace, settings.workspace,
                  int(algorithm->data[1])});
  const auto run = [](void* job) { (*static_cast<const Job*>(job))(); };
  return cudaLaunchHostFunc(stream, run, &jobs.back()) == cudaSuccess ? Status::success
                                                                      : Status(13);
}
#endif

// ---- What tests ask for. status: negative for Create.
void emulated_cublas(int status, int wrong_form, int proposals, int64_t workspace) {
  settings.status = status, settings.wrong_form = wrong_form;
  settings.proposals = proposals, settings.workspace = workspace;
}
int emulated_multiplied() { return settings.multiplied; }
int emulated_planned() { return settings.planned; }
int emulated_descriptors() { return settings.descriptors; }  // that are not given back

}  // extern "C"
