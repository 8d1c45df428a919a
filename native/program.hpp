// A model's step as a flat list of operations over named buffers.
//
// Nothing is allocated while a step runs: buffers, scratch space and the cache are made when the
// program is built, for the largest step it will see.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/kernels.hpp"
#include "pool.hpp"

namespace yearling {

// Memory that starts as zero pages and costs nothing until it is touched.
class LazyMemory {
 public:
  explicit LazyMemory(std::size_t bytes);
  std::byte* data() const { return data_.get(); }
  float* floats() const { return reinterpret_cast<float*>(data_.get()); }

 private:
  struct Free {
    void operator()(std::byte* data) const;
  };
  std::unique_ptr<std::byte[], Free> data_;
};

enum class Rows { tokens, logits };

// A matrix of float32 with one row per token of the step, or per row whose logits are wanted.
struct Buffer {
  Rows rows;
  std::size_t columns;
  std::unique_ptr<LazyMemory> memory;
  float* row(std::size_t index) const { return memory->floats() + index * columns; }
};

enum class CacheType { float32 = 0, float16 = 1 };

// Paged keys and values of every layer; see AttentionBlock for the layout of a block.
class Cache {
 public:
  Cache(CacheType type, std::size_t blocks) : type_(type), blocks_(blocks) {}
  void add_layer(std::size_t kv_heads, std::size_t head_dim);
  bool has_layer(std::size_t layer, std::size_t kv_heads, std::size_t head_dim) const {
    return layer < layers_.size() && layers_[layer].kv_heads == kv_heads &&
           layers_[layer].head_dim == head_dim;
  }

  CacheType type() const { return type_; }
  std::size_t blocks() const { return blocks_; }
  std::size_t layers() const { return layers_.size(); }
  std::size_t block_bytes() const;
  std::byte* keys(std::size_t layer, std::size_t block, std::size_t head) const {
    const Layer& l = layers_[layer];
    return l.keys->data() + (block * l.kv_heads + head) * l.head_bytes;
  }
  std::byte* values(std::size_t layer, std::size_t block, std::size_t head) const {
    const Layer& l = layers_[layer];
    return l.values->data() + (block * l.kv_heads + head) * l.head_bytes;
  }

 private:
  struct Layer {
    std::size_t kv_heads, head_dim, head_bytes;
    std::unique_ptr<LazyMemory> keys, values;
  };
  CacheType type_;
  std::size_t blocks_;
  std::vector<Layer> layers_;
};

struct Sequence {
  std::size_t first_token;  // its first row in the step
  std::size_t num_tokens;
  std::size_t start;  // position of that first row
  const std::int32_t* blocks;
};

// Embedding rows that the caller computed (an image's, say) in place of the table's.
struct Injection {
  std::span<const std::int32_t> rows;
  const float* values;  // [rows][width]
};

struct Step {
  std::span<const std::int32_t> tokens;
  std::span<const Sequence> sequences;
  std::span<const std::int32_t> logit_rows;
  Injection injection;
};

struct Limits {
  std::size_t step_tokens, logit_rows, context, vocabulary, cache_blocks;
};

// Space that operations share within a step.
struct Scratch {
  QuantizedRows quantized;
  std::vector<std::size_t> positions;  // per token of the step
  std::vector<std::uint32_t> sequence_of;
  std::unique_ptr<LazyMemory> codes, scales, sums, outliers, num_outliers, partials;
};

struct Context {
  const Kernels& kernels;
  Pool& pool;
  const Step& step;
  Scratch& scratch;
  Cache& cache;
  std::vector<Buffer>& buffers;

  std::size_t num_rows(Rows rows) const {
    return rows == Rows::tokens ? step.tokens.size() : step.logit_rows.size();
  }
  // Runs body(row) for all rows; in the caller alone when there is little to do. `row_work` is
  // the number of floats a row touches.
  template <typename Body>
  void for_rows(std::size_t rows, std::size_t row_work, Body&& body) {
    constexpr std::size_t kWorth = 8192;  // about as long as waking a sleeping thread takes
    const std::size_t chunk = std::max<std::size_t>(1, kWorth / std::max<std::size_t>(row_work, 1));
    pool.parallel_for((rows + chunk - 1) / chunk, [&](std::size_t index) {
      const std::size_t end = std::min(rows, (index + 1) * chunk);
      for (std::size_t row = index * chunk; row < end; ++row) body(row);
    });
  }
};

class Op {
 public:
  virtual ~Op() = default;
  virtual void run(Context& context) const = 0;
  // What the operation needs of the shared scratch space, in floats of attention partials and
  // bytes of quantised input per row.
  virtual std::size_t partial_floats(const Limits&, int /*threads*/) const { return 0; }
  virtual std::size_t quantized_inputs() const { return 0; }
};

class Program {
 public:
  Program(const Limits& limits, CacheType cache_type, const Kernels& kernels,
          std::shared_ptr<Pool> pool);

  int add_buffer(Rows rows, std::size_t columns);
  // Number of the new layer; its heads are fixed from here on.
  std::size_t add_cache_layer(std::size_t kv_heads, std::size_t head_dim);
  const Cache& cache() const { return cache_; }
  const Limits& limits() const { return limits_; }
  const Kernels& kernels() const { return kernels_; }
  Pool& pool() { return *pool_; }
  const Buffer& buffer(int index) const;

  void append(std::unique_ptr<Op> op);
  // Allocates what all operations share; no operation can be added afterwards.
  void finish();

  // Throws std::invalid_argument when a token, position, block or row is out of range.
  void run(const Step& step);

 private:
  void check(const Step& step) const;

  Limits limits_;
  const Kernels& kernels_;
  std::shared_ptr<Pool> pool_;
  Cache cache_;
  Scratch scratch_;
  std::vector<Buffer> buffers_;
  std::vector<std::unique_ptr<Op>> ops_;
  bool is_finished_ = false;
};

}  // namespace yearling
