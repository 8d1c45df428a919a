// Writing keys and values into the paged cache, and attention over it.
//
// Attention always reads keys and values back from the cache, and always splits a sequence's
// keys at multiples of kSplitTokens, whatever the step looks like: a token's result is the same
// whether it was computed alone, in a chunk, or among other requests.
#include <algorithm>
#include <limits>
#include <span>

#include "ops.hpp"

namespace yearling {
namespace {

struct WriteKV final : RowOp {
  int input;
  CacheLayer cache;
  std::size_t key_column, value_column;

  std::optional<RowWork> row_work(const Context& context) const override {
    // Tokens of a block share the lines of its keys: two threads would take them from each other.
    // It matters in prompts only, which have blocks to spare.
    const std::size_t tokens = context.step.tokens.size();
    const bool is_prompt = tokens >= context.step.sequences.size() + 8 * kBlockTokens;
    return RowWork{Rows::tokens, 4 * cache.kv_heads * cache.head_dim,
                   is_prompt ? kBlockTokens : 1};
  }
  void run_row(Context& context, std::size_t row) const override {
    const Buffer& in = context.buffers[input];
    const auto [layer, group, kv_heads, head_dim] = cache;
    const auto type = static_cast<std::size_t>(context.cache.type());
    const std::size_t position = context.scratch.positions[row];
    const std::size_t block =
        context.step.table(group, context.scratch.sequence_of[row]).at(position);
    const std::size_t token = position % kBlockTokens;
    for (std::size_t head = 0; head < kv_heads; ++head) {
      const float* key = in.row(row) + key_column + head * head_dim;
      const float* value = in.row(row) + value_column + head * head_dim;
      context.kernels.write_key[type](key, head_dim, context.cache.keys(layer, block, head),
                                      token);
      context.kernels.write_value[type](value, head_dim, context.cache.values(layer, block, head),
                                        token);
    }
  }
};

// A task's states: one per (query, head) pair, over some of its keys.
struct States {
  AttentionState rows[kAttentionRows];

  explicit States(std::size_t head_dim, float* values) {
    for (std::size_t r = 0; r < kAttentionRows; ++r) {
      rows[r] = {-std::numeric_limits<float>::infinity(), 0.0f, values + r * head_dim};
    }
  }
};

struct Attention final : Op {
  int input, output;
  CacheLayer cache;
  AttentionSettings settings;

  std::size_t shared() const { return settings.heads / cache.kv_heads; }
  bool is_bent() const { return settings.soft_cap > 0 || !settings.slopes.empty(); }

  // Pairs are numbered query · shared + head within the key head's group.
  struct Task {
    std::size_t sequence_number;
    const Sequence* sequence;
    std::size_t kv_head, first_pair, num_pairs;
  };

  std::size_t tasks_per_head(const Sequence& sequence) const {
    return (sequence.num_tokens * shared() + kAttentionRows - 1) / kAttentionRows;
  }

  // The first task of each sequence of a step, and the number of all tasks.
  std::span<const std::size_t> first_tasks(const Context& context) const {
    const std::size_t count = context.step.sequences.size();
    const std::span<std::size_t> first(context.scratch.first_tasks.data(), count + 1);
    first[0] = 0;
    for (std::size_t s = 0; s < count; ++s) {
      first[s + 1] = first[s] + tasks_per_head(context.step.sequences[s]) * cache.kv_heads;
    }
    return first;
  }

  // Without pairs beyond the last task.
  Task task_at(const Context& context, std::span<const std::size_t> first_tasks,
               std::size_t index) const {
    if (index >= first_tasks.back()) return {};
    const auto next = std::upper_bound(first_tasks.begin(), first_tasks.end(), index);
    const auto s = static_cast<std::size_t>(next - first_tasks.begin()) - 1;
    const Sequence& sequence = context.step.sequences[s];
    index -= first_tasks[s];
    // In order of queries, so that a thread has those of the rows that it has elsewhere too.
    const std::size_t first = index / cache.kv_heads * kAttentionRows;
    const std::size_t pairs = sequence.num_tokens * shared();
    return {s, &sequence, index % cache.kv_heads, first, std::min(kAttentionRows, pairs - first)};
  }

  // One past the last key that the query at a position sees, and the first that it sees.
  std::size_t end_key(const Sequence& sequence, std::size_t position) const {
    return settings.sees_prefix ? std::max(position + 1, sequence.prefix) : position + 1;
  }
  std::size_t first_key(const Sequence& sequence, std::size_t position) const {
    const std::size_t end = end_key(sequence, position);
    return settings.window && end > settings.window ? end - settings.window : 0;
  }
  // The splits that hold keys of any of a task's queries, or of all of a sequence's.
  RowRange splits_between(const Sequence& sequence, std::size_t first, std::size_t last) const {
    return {first_key(sequence, first) / kSplitTokens,
            (end_key(sequence, last) + kSplitTokens - 1) / kSplitTokens};
  }
  std::size_t position(const Task& task, std::size_t pair) const {
    return task.sequence->start + (task.first_pair + pair) / shared();
  }
  RowRange splits_of(const Task& task) const {
    return splits_between(*task.sequence, position(task, 0), position(task, task.num_pairs - 1));
  }

  // What a task's pairs ask and see; the same for all of its splits.
  struct Pairs {
    float queries[kMaxHeadDim * kAttentionRows];  // [head_dim][kAttentionRows]
    std::size_t first[kAttentionRows], end[kAttentionRows], position[kAttentionRows];
    float slopes[kAttentionRows];
  };
  void collect_pairs(const Context& context, const Task& task, Pairs& pairs) const {
    const Buffer& in = context.buffers[input];
    for (std::size_t pair = 0; pair < task.num_pairs; ++pair) {
      const std::size_t number = task.first_pair + pair;
      const std::size_t row = task.sequence->first_token + number / shared();
      const std::size_t head = task.kv_head * shared() + number % shared();
      const float* query = in.row(row) + head * cache.head_dim;
      for (std::size_t d = 0; d < cache.head_dim; ++d) {
        pairs.queries[d * kAttentionRows + pair] = query[d];
      }
      pairs.position[pair] = position(task, pair);
      pairs.first[pair] = first_key(*task.sequence, pairs.position[pair]);
      pairs.end[pair] = end_key(*task.sequence, pairs.position[pair]);
      pairs.slopes[pair] = settings.slopes.empty() ? 0.0f : settings.slopes[head];
    }
  }

  // Where the keys of a split lie that some query of a task sees, and their values.
  void find_blocks(const Context& context, const Task& task, std::size_t number,
                   const void** keys, const void** values) const {
    const BlockTable table = context.step.table(cache.group, task.sequence_number);
    const std::size_t start = number * kSplitTokens;
    const std::size_t first = std::max(start, first_key(*task.sequence, position(task, 0)));
    const std::size_t end = std::min(
        start + kSplitTokens, end_key(*task.sequence, position(task, task.num_pairs - 1)));
    for (std::size_t key = first / kBlockTokens * kBlockTokens; key < end; key += kBlockTokens) {
      const std::size_t block = table.at(key), at = (key - start) / kBlockTokens;
      keys[at] = context.cache.keys(cache.layer, block, task.kv_head);
      values[at] = context.cache.values(cache.layer, block, task.kv_head);
    }
  }

  // Part of a task's keys, as one thread goes through them.
  struct Visit {
    Task task;  // without pairs there is none
    std::size_t split;
  };

  void attend_split(Context& context, const Visit& visit, const Pairs& pairs, const Visit& next,
                    States& states) const {
    const Task& task = visit.task;
    const std::size_t start = visit.split * kSplitTokens;
    AttentionSplit split{{}, {}, cache.head_dim, settings.scale, {}, {}};
    find_blocks(context, task, visit.split, split.keys, split.values);
    if (next.task.num_pairs > 0 && task.num_pairs < kAttentionRows) {  // many fetch nothing ahead
      find_blocks(context, next.task, next.split, split.next_keys, split.next_values);
    }
    KeyRange keys[kAttentionRows];
    ScoreBend bends[kAttentionRows];
    const auto within = [start](std::size_t reach) {
      const std::size_t past = reach > start ? reach - start : 0;
      return static_cast<std::uint32_t>(std::min(kSplitTokens, past));
    };
    for (std::size_t pair = 0; pair < task.num_pairs; ++pair) {
      keys[pair] = {within(pairs.first[pair]), within(pairs.end[pair])};
      bends[pair] = {settings.soft_cap, pairs.slopes[pair],
                     static_cast<float>(start) - static_cast<float>(pairs.position[pair])};
    }
    const auto type = static_cast<std::size_t>(context.cache.type());
    context.kernels.attend[type](split, pairs.queries, keys, is_bent() ? bends : nullptr,
                                 task.num_pairs, states.rows);
  }

  void write(Context& context, const Task& task, const States& states) const {
    const Buffer& out = context.buffers[output];
    for (std::size_t pair = 0; pair < task.num_pairs; ++pair) {
      const std::size_t number = task.first_pair + pair;
      const std::size_t row = task.sequence->first_token + number / shared();
      const std::size_t head = task.kv_head * shared() + number % shared();
      float* to = out.row(row) + head * cache.head_dim;
      const AttentionState& state = states.rows[pair];
      context.kernels.scale(state.values, 1.0f / state.sum, cache.head_dim, to);
    }
  }

  void run_task(Context& context, const Task& task, const Task& next) const {
    const std::size_t next_begin = next.num_pairs > 0 ? splits_of(next).begin : 0;
    float total_values[kAttentionRows * kMaxHeadDim], split_values[kAttentionRows * kMaxHeadDim];
    Pairs pairs;
    collect_pairs(context, task, pairs);
    States total(cache.head_dim, total_values), part(cache.head_dim, split_values);
    const RowRange splits = splits_of(task);
    for (std::size_t split = splits.begin; split < splits.end; ++split) {
      const bool is_last = split + 1 == splits.end;
      attend_split(context, {task, split}, pairs,
                   is_last ? Visit{next, next_begin} : Visit{task, split + 1},
                   split == splits.begin ? total : part);
      if (split == splits.begin) continue;
      for (std::size_t pair = 0; pair < task.num_pairs; ++pair) {
        context.kernels.merge_states(part.rows[pair], cache.head_dim, total.rows[pair]);
      }
    }
    write(context, task, total);
  }

  // Few queries with many keys: splits run side by side, and are merged in order afterwards. A
  // slot keeps the states of one task; a round fills at most kRoundSplits of them per task, so
  // that their space does not grow with the context.
  static constexpr std::size_t kRoundSplits = 64;
  std::size_t slot_floats() const { return kAttentionRows * (cache.head_dim + 2); }
  static std::size_t few_tasks(int threads) { return 4 * static_cast<std::size_t>(threads); }

  void collect(Requirements& needs) const override {
    std::size_t& reach = needs.reach[cache.group];
    reach = std::max(reach, settings.window ? settings.window : needs.limits.context);
    needs.sees_prefix = needs.sees_prefix || settings.sees_prefix;
    const std::size_t splits = (needs.limits.context + kSplitTokens - 1) / kSplitTokens;
    const std::size_t slots = std::min(splits, kRoundSplits) + 1;
    needs.need_working(few_tasks(needs.threads) * slots * slot_floats() * sizeof(float));
  }

  void save(const States& states, std::size_t count, float* slot) const {
    float* sums = slot + kAttentionRows * cache.head_dim;
    for (std::size_t pair = 0; pair < count; ++pair) {
      sums[2 * pair] = states.rows[pair].maximum;
      sums[2 * pair + 1] = states.rows[pair].sum;
    }
  }
  void restore(States& states, std::size_t count, float* slot) const {
    const float* sums = slot + kAttentionRows * cache.head_dim;
    for (std::size_t pair = 0; pair < count; ++pair) {
      states.rows[pair] = {sums[2 * pair], sums[2 * pair + 1], slot + pair * cache.head_dim};
    }
  }

  void run_split_tasks(Context& context, std::span<const std::size_t> first_tasks,
                       std::size_t splits) const {
    const std::size_t tasks = first_tasks.back();
    float* totals = context.scratch.working->floats();
    float* partials = totals + tasks * slot_floats();
    for (std::size_t round = 0; round < splits; round += kRoundSplits) {
      const std::size_t count = std::min(kRoundSplits, splits - round);
      context.pool.parallel_for(tasks * count, [&](std::size_t index) {
        const Task task = task_at(context, first_tasks, index / count);
        const RowRange own = splits_of(task);
        const std::size_t split = own.begin + round + index % count;
        if (split >= own.end) return;
        float* slot = partials + index * slot_floats();
        Pairs pairs;
        collect_pairs(context, task, pairs);
        States part(cache.head_dim, slot);
        attend_split(context, {task, split}, pairs, {}, part);
        save(part, task.num_pairs, slot);
      });
      for (std::size_t index = 0; index < tasks; ++index) {
        const Task task = task_at(context, first_tasks, index);
        float* total_slot = totals + index * slot_floats();
        merge_round(context, task, round, count, partials + index * count * slot_floats(),
                    total_slot);
      }
    }
  }

  void merge_round(Context& context, const Task& task, std::size_t round, std::size_t count,
                   float* slots, float* total_slot) const {
    const RowRange own = splits_of(task);
    const std::size_t splits = own.end - own.begin;
    if (round >= splits) return;
    States total(cache.head_dim, total_slot), part(cache.head_dim, slots);
    if (round == 0) {
      std::fill_n(total_slot, task.num_pairs * cache.head_dim, 0.0f);
    } else {
      restore(total, task.num_pairs, total_slot);
    }
    for (std::size_t i = 0; i < std::min(count, splits - round); ++i) {
      restore(part, task.num_pairs, slots + i * slot_floats());
      for (std::size_t pair = 0; pair < task.num_pairs; ++pair) {
        context.kernels.merge_states(part.rows[pair], cache.head_dim, total.rows[pair]);
      }
    }
    if (round + count >= splits) return write(context, task, total);
    save(total, task.num_pairs, total_slot);
  }

  void run(Context& context) const override {
    const std::span<const std::size_t> first = first_tasks(context);
    std::size_t splits = 0;
    for (const Sequence& sequence : context.step.sequences) {
      const RowRange own = splits_between(sequence, sequence.start,
                                          sequence.start + sequence.num_tokens - 1);
      splits = std::max(splits, own.end - own.begin);
    }
    const std::size_t tasks = first.back();
    if (splits > 1 && tasks <= few_tasks(context.pool.threads())) {
      run_split_tasks(context, first, splits);
    } else {
      context.pool.parallel_for(tasks, [&](std::size_t index) {
        run_task(context, task_at(context, first, index), task_at(context, first, index + 1));
      });
    }
  }
};

}  // namespace

std::unique_ptr<Op> make_write_kv(const Program& program, int input, const CacheLayer& cache,
                                  std::size_t key_column, std::size_t value_column) {
  const std::size_t columns = program.buffer(input).columns;
  const std::size_t width = cache.kv_heads * cache.head_dim;
  require(key_column + width <= columns && value_column + width <= columns,
          "write_kv: keys and values must lie within the buffer.");
  require(program.cache().has_layer(cache.layer, cache.group, cache.kv_heads, cache.head_dim),
          "write_kv: no cache layer of this group and these heads has this number.");
  auto op = std::make_unique<WriteKV>();
  op->input = input;
  op->cache = cache;
  op->key_column = key_column;
  op->value_column = value_column;
  return op;
}

std::unique_ptr<Op> make_attention(const Program& program, int input, int output,
                                   const CacheLayer& cache, AttentionSettings settings) {
  require(cache.kv_heads > 0 && settings.heads > 0 && settings.heads % cache.kv_heads == 0,
          "attention: kv_heads must divide heads.");
  require(cache.head_dim <= kMaxHeadDim, "attention: head_dim is at most 512.");
  require(program.cache().has_layer(cache.layer, cache.group, cache.kv_heads, cache.head_dim),
          "attention: no cache layer of this group and these heads has this number.");
  require(program.buffer(input).columns >= settings.heads * cache.head_dim &&
              program.buffer(output).columns == settings.heads * cache.head_dim,
          "attention: queries and output are heads · head_dim wide.");
  require(settings.window == 0 || !settings.sees_prefix,
          "attention: a window and a prefix mask do not go together.");
  require(settings.slopes.empty() || settings.slopes.size() == settings.heads,
          "attention: slopes must have one entry per head.");
  auto op = std::make_unique<Attention>();
  op->input = input;
  op->output = output;
  op->cache = cache;
  op->settings = std::move(settings);
  return op;
}

}  // namespace yearling
