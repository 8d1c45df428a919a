#include "program.hpp"

#include <algorithm>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <string>

namespace yearling {
namespace {

constexpr std::size_t kAlignment = 64;

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

std::string text(const char* part) { return part; }
std::string text(auto number) { return std::to_string(number); }

// The message is only put together when something is wrong: checks run in every step.
template <typename... Parts>
[[noreturn]] void refuse(Parts... parts) {
  throw std::invalid_argument((text(parts) + ...));
}

bool below(std::int32_t value, std::size_t end) {
  return value >= 0 && static_cast<std::size_t>(value) < end;
}

}  // namespace

// calloc leaves large areas to the kernel's zero pages; the alignment is made by hand, with the
// original address kept in front of the data.
LazyMemory::LazyMemory(std::size_t bytes) {
  auto* raw = static_cast<std::byte*>(std::calloc(bytes + 2 * kAlignment, 1));
  if (!raw) throw std::bad_alloc();
  auto* aligned = reinterpret_cast<std::byte*>(
      (reinterpret_cast<std::uintptr_t>(raw) + 2 * kAlignment - 1) / kAlignment * kAlignment);
  reinterpret_cast<std::byte**>(aligned)[-1] = raw;
  data_.reset(aligned);
}

void LazyMemory::Free::operator()(std::byte* data) const {
  std::free(reinterpret_cast<std::byte**>(data)[-1]);
}

void Cache::add_layer(std::size_t group, std::size_t kv_heads, std::size_t head_dim) {
  const std::size_t element = type_ == CacheType::float32 ? 4 : 2;
  const std::size_t dims = type_ == CacheType::bfloat16 ? (head_dim + 1) / 2 * 2 : head_dim;
  const std::size_t head_bytes = dims * kBlockTokens * element;
  const std::size_t bytes = blocks_[group] * kv_heads * head_bytes;
  layers_.push_back({group, kv_heads, head_dim, head_bytes, std::make_unique<LazyMemory>(bytes),
                     std::make_unique<LazyMemory>(bytes)});
}

std::size_t Cache::block_bytes(std::size_t group) const {
  std::size_t bytes = 0;
  for (const Layer& layer : layers_) {
    if (layer.group == group) bytes += 2 * layer.kv_heads * layer.head_bytes;
  }
  return bytes;
}

Program::Program(const Limits& limits, CacheType cache_type, const Kernels& kernels,
                 std::shared_ptr<Pool> pool)
    : limits_(limits),
      requirements_{.limits = limits_, .threads = pool->threads()},
      kernels_(kernels),
      pool_(std::move(pool)),
      cache_(cache_type, limits.cache_blocks) {
  requirements_.reach.resize(limits.cache_blocks.size());
}

int Program::add_buffer(Rows rows, std::size_t columns) {
  require(!is_finished_, "the program is finished.");
  buffers_.push_back({rows, columns, std::make_unique<LazyMemory>(most_rows(rows) * columns * 4)});
  return static_cast<int>(buffers_.size()) - 1;
}

std::size_t Program::add_cache_layer(std::size_t group, std::size_t kv_heads,
                                     std::size_t head_dim) {
  require(!is_finished_, "the program is finished.");
  if (group >= cache_.groups()) {
    refuse("cache group ", group, " of ", cache_.groups(),
           ": cache_blocks needs one entry per group.");
  }
  cache_.add_layer(group, kv_heads, head_dim);
  return cache_.layers() - 1;
}

const Buffer& Program::buffer(int index) const {
  if (!below(index, buffers_.size())) refuse("no buffer has number ", index, ".");
  return buffers_[static_cast<std::size_t>(index)];
}

std::size_t Program::add_linear(std::size_t outputs, std::size_t inputs) {
  linears_.emplace_back(outputs, inputs);
  return linears_.size() - 1;
}

void Program::set_adapter(std::size_t number, Adapter adapter) {
  require(is_finished_, "the program is not finished: call finish() first.");
  require(adapter.empty() || adapter.size() == linears_.size(),
          "an adapter has one entry per linear operation.");
  std::size_t width = scratch_.low_rank_width;
  for (std::size_t i = 0; i < adapter.size(); ++i) {
    const LowRank& update = adapter[i];
    if (update.ranks == 0) continue;
    const auto [outputs, inputs] = linears_[i];
    require(update.inputs == inputs, "an adapter's first matrix is (ranks, inputs).");
    for (const LowRankPart& part : update.parts) {
      require(!part.second->is_quantized() && part.column % kTile == 0 &&
                  part.column + part.second->outputs() <= outputs &&
                  part.first_row + part.second->inputs() <= update.ranks,
              "an adapter's second matrix is (outputs, rank) in floating point, and begins at a "
              "multiple of eight outputs.");
    }
    width = std::max(width, update.ranks);
  }
  if (width > scratch_.low_rank_width) {
    const std::size_t rows = std::max(limits_.step_tokens, limits_.logit_rows);
    scratch_.low_rank = std::make_unique<LazyMemory>(rows * width * sizeof(float));
    scratch_.low_rank_width = width;
  }
  if (number >= adapters_.size()) adapters_.resize(number + 1);
  adapters_[number] = std::move(adapter);
}

void Program::append(std::unique_ptr<Op> op) {
  require(!is_finished_, "the program is finished.");
  ops_.push_back(std::move(op));
}

void Program::finish() {
  require(!is_finished_, "the program is finished.");
  for (const auto& op : ops_) op->collect(requirements_);
  require(!keeps_states() || limits_.state_slots > 0,
          "this program keeps states: state_slots must be positive.");
  const std::size_t rows = requirements_.quantized_rows, groups = requirements_.quantized_groups;
  scratch_.groups = std::make_unique<LazyMemory>(groups * sizeof(QuantizedGroup));
  scratch_.highs =
      std::make_unique<LazyMemory>(requirements_.quantized_panels * sizeof(PanelHighs));
  scratch_.scales = std::make_unique<LazyMemory>(rows * sizeof(float));
  scratch_.working = std::make_unique<LazyMemory>(requirements_.working_bytes);
  scratch_.quantized = {reinterpret_cast<QuantizedGroup*>(scratch_.groups->data()),
                        reinterpret_cast<PanelHighs*>(scratch_.highs->data()),
                        scratch_.scales->floats(), 0};
  scratch_.positions.resize(limits_.step_tokens);
  scratch_.sequence_of.resize(limits_.step_tokens);
  scratch_.first_tasks.resize(limits_.step_tokens + 1);
  is_finished_ = true;
}

void Program::check(const Step& step) const {
  require(is_finished_, "the program is not finished: call finish() first.");
  const std::size_t count = step.tokens.size();
  if (count == 0 || count > limits_.step_tokens) {
    refuse("a step of ", count, " tokens; 1 to ", limits_.step_tokens, " fit.");
  }
  if (step.logit_rows.size() > limits_.logit_rows) {
    refuse(step.logit_rows.size(), " logit rows; at most ", limits_.logit_rows, " fit.");
  }
  for (const auto token : step.tokens) {
    if (!below(token, limits_.vocabulary)) {
      refuse("token id ", token, " is outside the vocabulary of ", limits_.vocabulary, ".");
    }
  }
  for (const auto row : step.logit_rows) {
    if (!below(row, count)) refuse("logit row ", row, " of a step of ", count, " tokens.");
  }
  for (const auto row : step.injection.rows) {
    if (!below(row, count)) refuse("injected row ", row, " of a step of ", count, " tokens.");
  }
  check_sequences(step);
  if (step.groups.size() != cache_.groups()) {
    refuse(step.groups.size(), " tables of cache blocks; the program has ", cache_.groups(),
           " cache groups.");
  }
  for (std::size_t group = 0; group < cache_.groups(); ++group) {
    for (std::size_t s = 0; s < step.sequences.size(); ++s) check_blocks(step, group, s);
  }
  if (keeps_states()) check_slots(step);
}

void Program::check_sequences(const Step& step) const {
  std::size_t covered = 0;
  for (const Sequence& sequence : step.sequences) {
    require(sequence.first_token == covered && sequence.num_tokens > 0,
            "sequences must cover the step's tokens in order.");
    covered += sequence.num_tokens;
    if (sequence.adapter >= 0 && (!below(sequence.adapter, adapters_.size()) ||
                                  adapters_[static_cast<std::size_t>(sequence.adapter)].empty())) {
      refuse("no adapter has number ", sequence.adapter, ".");
    }
    const std::size_t end = sequence.start + sequence.num_tokens;
    if (end > limits_.context) {
      refuse("position ", end - 1, " is outside the context of ", limits_.context, ".");
    }
    const bool is_whole = sequence.start >= sequence.prefix ||
                          (sequence.start == 0 && sequence.prefix <= end);
    if (requirements_.sees_prefix && !is_whole) {
      refuse("a prefix that all its tokens see must be computed in one step; this one has ",
             sequence.prefix, " tokens, and the step holds ", sequence.num_tokens,
             " from position ", sequence.start, " on.");
    }
  }
  require(covered == step.tokens.size(), "sequences must cover the step's tokens in order.");
}

// Only the blocks that this step writes and reads are looked at.
void Program::check_blocks(const Step& step, std::size_t group, std::size_t number) const {
  const Sequence& sequence = step.sequences[number];
  const BlockTable table = step.table(group, number);
  const std::size_t reach = std::max<std::size_t>(1, requirements_.reach[group]);
  const std::size_t visible = sequence.start + 1 > reach ? sequence.start + 1 - reach : 0;
  const std::size_t first = visible / kBlockTokens;
  const std::size_t end = (sequence.start + sequence.num_tokens + kBlockTokens - 1) / kBlockTokens;
  if (table.first > first) {
    refuse("a block table starts at block ", table.first, " of its sequence, but block ", first,
           " is still seen.");
  }
  require(end - table.first <= table.count, "a block table is too short for its sequence.");
  for (std::size_t i = first; i < end; ++i) {
    const std::int32_t block = table.blocks[i - table.first];
    if (!below(block, cache_.blocks(group))) {
      refuse("cache block ", block, " of ", cache_.blocks(group), ".");
    }
  }
}

void Program::check_slots(const Step& step) const {
  for (std::size_t s = 0; s < step.sequences.size(); ++s) {
    const std::size_t slot = step.sequences[s].slot;
    if (slot >= limits_.state_slots) {
      refuse("state slot ", slot, " of ", limits_.state_slots, ".");
    }
    for (std::size_t other = 0; other < s; ++other) {
      if (step.sequences[other].slot == slot) {
        refuse("state slot ", slot, " is given to two sequences.");
      }
    }
  }
}

void Program::run(const Step& step) {
  check(step);
  for (std::size_t s = 0; s < step.sequences.size(); ++s) {
    const Sequence& sequence = step.sequences[s];
    for (std::size_t i = 0; i < sequence.num_tokens; ++i) {
      scratch_.positions[sequence.first_token + i] = sequence.start + i;
      scratch_.sequence_of[sequence.first_token + i] = static_cast<std::uint32_t>(s);
    }
  }
  Context context{kernels_, *pool_, step, scratch_, cache_, buffers_, adapters_};
  run_ops(context);
}

void Program::run_ops(Context& context) const {
  RowWork pending{Rows::tokens, 0};
  std::size_t first = 0;  // of the operations whose row parts are pending
  const auto flush = [&](std::size_t end) {
    if (pending.floats > 0) {
      context.for_rows(
          context.num_rows(pending.rows), pending.floats,
          [&](std::size_t row) {
            for (std::size_t i = first; i < end; ++i) ops_[i]->run_row(context, row);
          },
          pending.together);
    }
    pending.floats = 0;
  };
  for (std::size_t i = 0; i < ops_.size(); ++i) {
    const std::optional<RowWork> work = ops_[i]->row_work(context);
    if (work) {
      if (pending.floats > 0 && work->rows != pending.rows) flush(i);
      if (pending.floats == 0) {
        first = i;
        pending = {work->rows, 0};
      }
      pending.floats += std::max<std::size_t>(work->floats, 1);
      pending.together = std::max(pending.together, work->together);
    }
    if (ops_[i]->is_by_rows()) continue;
    flush(work ? i + 1 : i);
    ops_[i]->run(context);
  }
  flush(ops_.size());
}

}  // namespace yearling
