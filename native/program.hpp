// A model's step as a flat list of operations over named buffers.
//
// Nothing is allocated while a step runs: buffers, scratch space and the cache are made when the
// program is built, for the largest step it will see.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
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

enum class CacheType { float32 = 0, float16 = 1, bfloat16 = 2 };

// Paged keys and values of every layer; see body_attention.hpp for a block. Layers of
// one group keep the same tokens of a sequence, and share its block table.
class Cache {
 public:
  Cache(CacheType type, std::vector<std::size_t> blocks)
      : type_(type), blocks_(std::move(blocks)) {}
  void add_layer(std::size_t group, std::size_t kv_heads, std::size_t head_dim);
  bool has_layer(std::size_t layer, std::size_t group, std::size_t kv_heads,
                 std::size_t head_dim) const {
    return layer < layers_.size() && layers_[layer].group == group &&
           layers_[layer].kv_heads == kv_heads && layers_[layer].head_dim == head_dim;
  }

  CacheType type() const { return type_; }
  std::size_t groups() const { return blocks_.size(); }
  std::size_t blocks(std::size_t group) const { return blocks_[group]; }
  std::size_t layers() const { return layers_.size(); }
  // What one block of a group takes over all its layers.
  std::size_t block_bytes(std::size_t group) const;
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
    std::size_t group, kv_heads, head_dim, head_bytes;
    std::unique_ptr<LazyMemory> keys, values;
  };
  CacheType type_;
  std::vector<std::size_t> blocks_;  // per group
  std::vector<Layer> layers_;
};

struct Sequence {
  std::size_t first_token;  // its first row in the step
  std::size_t num_tokens;
  std::size_t start;   // position of that first row
  std::size_t prefix;  // tokens of its prefix; 0 has none
  std::size_t slot;    // of its states, where the program keeps any
  std::int32_t adapter = -1;  // whose updates its tokens get; -1 none
};

// A low-rank update beside a linear operation: output += second · (first · input), where each
// part of the outputs has its own rows of `first` · input.
struct LowRankPart {
  std::size_t column;     // of its first output, a multiple of kTile
  std::size_t first_row;  // of `first` · input
  std::shared_ptr<const Linear> second;  // (outputs, rank) in floating point
};
struct LowRank {
  std::size_t ranks = 0, inputs = 0;  // no ranks update nothing
  CacheType type = CacheType::float32;
  std::vector<std::byte> first;  // [ranks][inputs]
  std::vector<LowRankPart> parts;
};
// One per linear operation of the program; empty where there is no adapter.
using Adapter = std::vector<LowRank>;

// Where one sequence keeps its blocks of one cache group: token i in blocks[i / 16 - first].
struct BlockTable {
  const std::int32_t* blocks;
  std::size_t first, count;
  std::size_t at(std::size_t position) const {
    return static_cast<std::size_t>(blocks[position / kBlockTokens - first]);
  }
};

// The block tables of one cache group, [sequences][width].
struct GroupTables {
  const std::int32_t* blocks;
  const std::int32_t* first_blocks;
  std::size_t width;
};

// Embedding rows that the caller computed (an image's, say) in place of the table's.
struct Injection {
  std::span<const std::int32_t> rows;
  const float* values;  // [rows][width]
};

struct Step {
  std::span<const std::int32_t> tokens;
  std::span<const Sequence> sequences;
  std::span<const GroupTables> groups;
  std::span<const std::int32_t> logit_rows;
  Injection injection;

  BlockTable table(std::size_t group, std::size_t sequence) const {
    const GroupTables& tables = groups[group];
    return {tables.blocks + sequence * tables.width,
            static_cast<std::size_t>(tables.first_blocks[sequence]), tables.width};
  }
};

struct Limits {
  std::size_t step_tokens, logit_rows, context, vocabulary, state_slots;
  std::vector<std::size_t> cache_blocks;  // per group
};

// Space that operations share within a step.
struct Scratch {
  QuantizedRows quantized;
  std::vector<std::size_t> positions;  // per token of the step
  std::vector<std::uint32_t> sequence_of;
  std::vector<std::size_t> first_tasks;  // of each sequence, in the attention that runs
  std::unique_ptr<LazyMemory> groups, highs, scales, working;
  std::unique_ptr<LazyMemory> low_rank;  // [rows][low_rank_width]
  std::size_t low_rank_width = 0;
};

// What a program's operations ask for, all together: the largest of each size.
struct Requirements {
  const Limits& limits;
  int threads;
  std::size_t quantized_rows = 0;
  std::size_t quantized_groups = 0, quantized_panels = 0;  // of all rows
  std::size_t working_bytes = 0;                           // that one operation uses while it runs
  std::size_t slot_bytes = 0;                              // of the states of one sequence
  bool sees_prefix = false;
  // Per cache group: how many tokens back its attention looks; 0 where nothing attends.
  std::vector<std::size_t> reach = {};

  void need_quantized(std::size_t rows, std::size_t inputs) {
    quantized_rows = std::max(quantized_rows, rows);
    const std::size_t groups = (inputs + kGroup - 1) / kGroup;
    quantized_groups = std::max(quantized_groups, rows * groups);
    quantized_panels = std::max(quantized_panels, rows * QuantizedRows::panels_of(groups));
  }
  void need_working(std::size_t bytes) { working_bytes = std::max(working_bytes, bytes); }
};

struct Context {
  const Kernels& kernels;
  Pool& pool;
  const Step& step;
  Scratch& scratch;
  Cache& cache;
  std::vector<Buffer>& buffers;
  std::span<const Adapter> adapters;

  const Sequence& sequence_of(std::size_t token) const {
    return step.sequences[scratch.sequence_of[token]];
  }
  std::size_t num_rows(Rows rows) const {
    return rows == Rows::tokens ? step.tokens.size() : step.logit_rows.size();
  }
  // The token that a row of a buffer belongs to.
  std::size_t token_of(Rows rows, std::size_t row) const {
    return rows == Rows::tokens ? row : static_cast<std::size_t>(step.logit_rows[row]);
  }
  // Runs body(row) for all rows; in the caller alone when there is little to do. `row_work` is
  // the number of floats a row touches, `together` how many rows one thread should take at least.
  template <typename Body>
  void for_rows(std::size_t rows, std::size_t row_work, Body&& body, std::size_t together = 1) {
    constexpr std::size_t kWorth = 8192;  // about as long as waking a sleeping thread takes
    std::size_t chunks = (rows * std::max<std::size_t>(row_work, 1) + kWorth / 2) / kWorth;
    const auto threads = static_cast<std::size_t>(pool.threads());
    if (chunks > 1) chunks = (chunks + threads - 1) / threads * threads;
    const std::size_t even = (rows + std::max<std::size_t>(chunks, 1) - 1) /
                             std::max<std::size_t>(chunks, 1);
    const std::size_t chunk = std::max<std::size_t>(1, (even + together - 1) / together * together);
    pool.parallel_for((rows + chunk - 1) / chunk, [&](std::size_t index) {
      const std::size_t end = std::min(rows, (index + 1) * chunk);
      for (std::size_t row = index * chunk; row < end; ++row) body(row);
    });
  }
};

// Work on rows that do not meet.
struct RowWork {
  Rows rows;
  std::size_t floats;  // that a row touches, about
  std::size_t together = 1;
};

class Op {
 public:
  virtual ~Op() = default;
  // Its part that treats each row alone, if it has one. Such parts that follow one another are one
  // job: a row goes through all of them while it is in the cache.
  virtual std::optional<RowWork> row_work(const Context&) const { return {}; }
  virtual void run_row(Context&, std::size_t) const {}
  // What comes behind that; `is_by_rows` if nothing does.
  virtual bool is_by_rows() const { return false; }
  virtual void run(Context& context) const = 0;
  virtual void collect(Requirements&) const {}
};

class RowOp : public Op {
 public:
  bool is_by_rows() const final { return true; }
  void run(Context&) const final {}
};

class Program {
 public:
  Program(const Limits& limits, CacheType cache_type, const Kernels& kernels,
          std::shared_ptr<Pool> pool);

  int add_buffer(Rows rows, std::size_t columns);
  // Number of the new layer; its heads are fixed from here on.
  std::size_t add_cache_layer(std::size_t group, std::size_t kv_heads, std::size_t head_dim);
  const Cache& cache() const { return cache_; }
  const Limits& limits() const { return limits_; }
  const Kernels& kernels() const { return kernels_; }
  bool keeps_states() const { return requirements_.slot_bytes > 0; }
  // What the states of one sequence take over all layers.
  std::size_t slot_bytes() const { return requirements_.slot_bytes; }
  Pool& pool() { return *pool_; }
  const Buffer& buffer(int index) const;
  std::size_t most_rows(Rows rows) const {
    return rows == Rows::tokens ? limits_.step_tokens : limits_.logit_rows;
  }

  // Number of a new linear operation, by which adapters know it.
  std::size_t add_linear(std::size_t outputs, std::size_t inputs);
  std::size_t linears() const { return linears_.size(); }
  void append(std::unique_ptr<Op> op);
  // Allocates what all operations share; no operation can be added afterwards.
  void finish();

  // Sequences may name the adapter from now on; an empty one frees the place. Not within a step.
  void set_adapter(std::size_t number, Adapter adapter);

  // Throws std::invalid_argument when a token, position, block or row is out of range.
  void run(const Step& step);

 private:
  void run_ops(Context& context) const;
  void check(const Step& step) const;
  void check_sequences(const Step& step) const;
  void check_blocks(const Step& step, std::size_t group, std::size_t sequence) const;
  void check_slots(const Step& step) const;

  Limits limits_;
  Requirements requirements_;
  const Kernels& kernels_;
  std::shared_ptr<Pool> pool_;
  Cache cache_;
  Scratch scratch_;
  std::vector<Buffer> buffers_;
  std::vector<std::unique_ptr<Op>> ops_;
  std::vector<std::pair<std::size_t, std::size_t>> linears_;  // outputs and inputs
  std::vector<Adapter> adapters_;
  bool is_finished_ = false;
};

}  // namespace yearling
