// Writing keys and values into the paged cache, and attention over it.
//
// Attention always reads keys and values back from the cache, and always splits a sequence's
// keys at multiples of kSplitTokens, whatever the step looks like: a token's result is the same
// whether it was computed alone, in a chunk, or among other requests.
#include <algorithm>
#include <limits>

#include "ops.hpp"

namespace yearling {
namespace {

constexpr std::size_t kSplitTokens = 256;
constexpr std::size_t kTaskRows = 12;     // (query, head) pairs that share a key head's blocks
constexpr std::size_t kMaxHeadDim = 512;  // bounds the stack space of a task

struct WriteKV final : Op {
  int input;
  std::size_t layer, key_column, value_column, kv_heads, head_dim;

  void run(Context& context) const override {
    const Buffer& in = context.buffers[input];
    const auto type = static_cast<std::size_t>(context.cache.type());
    context.for_rows(context.step.tokens.size(), 4 * kv_heads * head_dim, [&](std::size_t row) {
      const Sequence& sequence = context.step.sequences[context.scratch.sequence_of[row]];
      const std::size_t position = context.scratch.positions[row];
      const auto block = static_cast<std::size_t>(sequence.blocks[position / kBlockTokens]);
      const std::size_t token = position % kBlockTokens;
      for (std::size_t head = 0; head < kv_heads; ++head) {
        const float* key = in.row(row) + key_column + head * head_dim;
        const float* value = in.row(row) + value_column + head * head_dim;
        context.kernels.write_key[type](key, head_dim, context.cache.keys(layer, block, head),
                                        token);
        context.kernels.write_value[type](value, head_dim,
                                          context.cache.values(layer, block, head), token);
      }
    });
  }
};

// A task's states: one per (query, head) pair, over some of its keys.
struct States {
  AttentionState rows[kTaskRows];

  void reset(std::size_t count, std::size_t head_dim, float* values) {
    std::fill_n(values, count * head_dim, 0.0f);
    for (std::size_t r = 0; r < count; ++r) {
      rows[r] = {-std::numeric_limits<float>::infinity(), 0.0f, values + r * head_dim};
    }
  }
};

struct Attention final : Op {
  int input, output;
  std::size_t layer, heads, kv_heads, head_dim;
  float scale;

  std::size_t shared() const { return heads / kv_heads; }

  // Pairs are numbered query · shared + head within the key head's group.
  struct Task {
    const Sequence* sequence;
    std::size_t kv_head, first_pair, num_pairs;
  };

  std::size_t tasks_per_head(const Sequence& sequence) const {
    return (sequence.num_tokens * shared() + kTaskRows - 1) / kTaskRows;
  }

  Task task_at(const Context& context, std::size_t index) const {
    for (const Sequence& sequence : context.step.sequences) {
      const std::size_t per_head = tasks_per_head(sequence), count = per_head * kv_heads;
      if (index >= count) {
        index -= count;
        continue;
      }
      // The last queries have the most keys; started first, they do not finish alone.
      const std::size_t first = (per_head - 1 - index / kv_heads) * kTaskRows;
      const std::size_t pairs = sequence.num_tokens * shared();
      return {&sequence, index % kv_heads, first, std::min(kTaskRows, pairs - first)};
    }
    return {};
  }

  std::size_t num_keys(const Task& task, std::size_t pair) const {
    return task.sequence->start + (task.first_pair + pair) / shared() + 1;
  }

  std::size_t num_splits(const Task& task) const {
    return (num_keys(task, task.num_pairs - 1) + kSplitTokens - 1) / kSplitTokens;
  }

  void attend_split(Context& context, const Task& task, std::size_t split, States& states) const {
    const Buffer& in = context.buffers[input];
    const float* queries[kTaskRows];
    for (std::size_t pair = 0; pair < task.num_pairs; ++pair) {
      const std::size_t number = task.first_pair + pair;
      const std::size_t row = task.sequence->first_token + number / shared();
      const std::size_t head = task.kv_head * shared() + number % shared();
      queries[pair] = in.row(row) + head * head_dim;
    }
    const std::size_t all_keys = num_keys(task, task.num_pairs - 1);
    const std::size_t end = std::min(all_keys, (split + 1) * kSplitTokens);
    const auto type = static_cast<std::size_t>(context.cache.type());
    for (std::size_t key = split * kSplitTokens; key < end; key += kBlockTokens) {
      std::size_t keys_in_block[kTaskRows];
      for (std::size_t pair = 0; pair < task.num_pairs; ++pair) {
        const std::size_t reach = num_keys(task, pair);
        keys_in_block[pair] = reach > key ? std::min(kBlockTokens, reach - key) : 0;
      }
      const auto block = static_cast<std::size_t>(task.sequence->blocks[key / kBlockTokens]);
      const AttentionBlock there{context.cache.keys(layer, block, task.kv_head),
                                 context.cache.values(layer, block, task.kv_head), head_dim,
                                 scale};
      context.kernels.attend[type](there, queries, keys_in_block, task.num_pairs, states.rows);
    }
  }

  void write(Context& context, const Task& task, const States& states) const {
    const Buffer& out = context.buffers[output];
    for (std::size_t pair = 0; pair < task.num_pairs; ++pair) {
      const std::size_t number = task.first_pair + pair;
      const std::size_t row = task.sequence->first_token + number / shared();
      const std::size_t head = task.kv_head * shared() + number % shared();
      float* to = out.row(row) + head * head_dim;
      const AttentionState& state = states.rows[pair];
      for (std::size_t d = 0; d < head_dim; ++d) to[d] = state.values[d] / state.sum;
    }
  }

  void run_task(Context& context, const Task& task) const {
    float total_values[kTaskRows * kMaxHeadDim], split_values[kTaskRows * kMaxHeadDim];
    States total, part;
    total.reset(task.num_pairs, head_dim, total_values);
    for (std::size_t split = 0; split < num_splits(task); ++split) {
      part.reset(task.num_pairs, head_dim, split_values);
      attend_split(context, task, split, part);
      for (std::size_t pair = 0; pair < task.num_pairs; ++pair) {
        context.kernels.merge_states(part.rows[pair], head_dim, total.rows[pair]);
      }
    }
    write(context, task, total);
  }

  // Few queries with many keys: splits run side by side, and are merged in order afterwards.
  std::size_t partial_row() const { return head_dim + 2; }
  std::size_t partial_floats(const Limits& limits, int threads) const override {
    const std::size_t splits = (limits.context + kSplitTokens - 1) / kSplitTokens;
    return few_tasks(threads) * splits * kTaskRows * partial_row();
  }
  static std::size_t few_tasks(int threads) { return 4 * static_cast<std::size_t>(threads); }

  void run_split_tasks(Context& context, std::size_t tasks, std::size_t splits) const {
    float* partials = context.scratch.partials->floats();
    const std::size_t slot = kTaskRows * partial_row();
    context.pool.parallel_for(tasks * splits, [&](std::size_t index) {
      const Task task = task_at(context, index / splits);
      const std::size_t split = index % splits;
      if (split >= num_splits(task)) return;
      float* values = partials + index * slot;
      float* sums = values + kTaskRows * head_dim;
      States part;
      part.reset(task.num_pairs, head_dim, values);
      attend_split(context, task, split, part);
      for (std::size_t pair = 0; pair < task.num_pairs; ++pair) {
        sums[2 * pair] = part.rows[pair].maximum;
        sums[2 * pair + 1] = part.rows[pair].sum;
      }
    });
    for (std::size_t index = 0; index < tasks; ++index) {
      const Task task = task_at(context, index);
      float total_values[kTaskRows * kMaxHeadDim];
      States total;
      total.reset(task.num_pairs, head_dim, total_values);
      for (std::size_t split = 0; split < num_splits(task); ++split) {
        float* values = partials + (index * splits + split) * slot;
        const float* sums = values + kTaskRows * head_dim;
        for (std::size_t pair = 0; pair < task.num_pairs; ++pair) {
          const AttentionState part{sums[2 * pair], sums[2 * pair + 1], values + pair * head_dim};
          context.kernels.merge_states(part, head_dim, total.rows[pair]);
        }
      }
      write(context, task, total);
    }
  }

  void run(Context& context) const override {
    std::size_t tasks = 0, most_keys = 0;
    for (const Sequence& sequence : context.step.sequences) {
      tasks += tasks_per_head(sequence) * kv_heads;
      most_keys = std::max(most_keys, sequence.start + sequence.num_tokens);
    }
    const std::size_t splits = (most_keys + kSplitTokens - 1) / kSplitTokens;
    if (splits > 1 && tasks <= few_tasks(context.pool.threads())) {
      run_split_tasks(context, tasks, splits);
    } else {
      context.pool.parallel_for(
          tasks, [&](std::size_t index) { run_task(context, task_at(context, index)); });
    }
  }
};

}  // namespace

std::unique_ptr<Op> make_write_kv(const Program& program, int input, std::size_t layer,
                                  std::size_t key_column, std::size_t value_column,
                                  std::size_t kv_heads, std::size_t head_dim) {
  const std::size_t columns = program.buffer(input).columns, width = kv_heads * head_dim;
  require(key_column + width <= columns && value_column + width <= columns,
          "write_kv: keys and values must lie within the buffer.");
  require(program.cache().has_layer(layer, kv_heads, head_dim),
          "write_kv: no cache layer of these heads has this number.");
  auto op = std::make_unique<WriteKV>();
  op->input = input;
  op->layer = layer;
  op->key_column = key_column;
  op->value_column = value_column;
  op->kv_heads = kv_heads;
  op->head_dim = head_dim;
  return op;
}

std::unique_ptr<Op> make_attention(const Program& program, int input, int output,
                                   std::size_t layer, std::size_t heads, std::size_t kv_heads,
                                   std::size_t head_dim, float scale) {
  require(kv_heads > 0 && heads % kv_heads == 0, "attention: kv_heads must divide heads.");
  require(head_dim <= kMaxHeadDim, "attention: head_dim is at most 512.");
  require(program.cache().has_layer(layer, kv_heads, head_dim),
          "attention: no cache layer of these heads has this number.");
  require(program.buffer(input).columns >= heads * head_dim &&
              program.buffer(output).columns == heads * head_dim,
          "attention: queries and output are heads · head_dim wide.");
  auto op = std::make_unique<Attention>();
  op->input = input;
  op->output = output;
  op->layer = layer;
  op->heads = heads;
  op->kv_heads = kv_heads;
  op->head_dim = head_dim;
  op->scale = scale;
  return op;
}

}  // namespace yearling
