#include "program.hpp"

#include <algorithm>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <string>

namespace yearling {
namespace {

constexpr std::size_t kAlignment = 64;

void require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
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

void Cache::add_layer(std::size_t kv_heads, std::size_t head_dim) {
  const std::size_t element = type_ == CacheType::float32 ? 4 : 2;
  const std::size_t head_bytes = head_dim * kBlockTokens * element;
  const std::size_t bytes = blocks_ * kv_heads * head_bytes;
  layers_.push_back({kv_heads, head_dim, head_bytes, std::make_unique<LazyMemory>(bytes),
                     std::make_unique<LazyMemory>(bytes)});
}

std::size_t Cache::block_bytes() const {
  std::size_t bytes = 0;
  for (const Layer& layer : layers_) bytes += 2 * layer.kv_heads * layer.head_bytes;
  return bytes;
}

Program::Program(const Limits& limits, CacheType cache_type, const Kernels& kernels,
                 std::shared_ptr<Pool> pool)
    : limits_(limits),
      kernels_(kernels),
      pool_(std::move(pool)),
      cache_(cache_type, limits.cache_blocks) {}

int Program::add_buffer(Rows rows, std::size_t columns) {
  require(!is_finished_, "the program is finished.");
  const std::size_t count = rows == Rows::tokens ? limits_.step_tokens : limits_.logit_rows;
  buffers_.push_back({rows, columns, std::make_unique<LazyMemory>(count * columns * 4)});
  return static_cast<int>(buffers_.size()) - 1;
}

std::size_t Program::add_cache_layer(std::size_t kv_heads, std::size_t head_dim) {
  require(!is_finished_, "the program is finished.");
  cache_.add_layer(kv_heads, head_dim);
  return cache_.layers() - 1;
}

const Buffer& Program::buffer(int index) const {
  require(index >= 0 && static_cast<std::size_t>(index) < buffers_.size(),
          "no buffer has number " + std::to_string(index) + ".");
  return buffers_[static_cast<std::size_t>(index)];
}

void Program::append(std::unique_ptr<Op> op) {
  require(!is_finished_, "the program is finished.");
  ops_.push_back(std::move(op));
}

void Program::finish() {
  require(!is_finished_, "the program is finished.");
  std::size_t inputs = 0, partials = 0;
  for (const auto& op : ops_) {
    inputs = std::max(inputs, op->quantized_inputs());
    partials = std::max(partials, op->partial_floats(limits_, pool_->threads()));
  }
  const std::size_t groups = (inputs + kGroup - 1) / kGroup;
  const std::size_t rows = std::max(limits_.step_tokens, limits_.logit_rows);
  scratch_.codes = std::make_unique<LazyMemory>(rows * groups * kGroup);
  scratch_.scales = std::make_unique<LazyMemory>(rows * groups * 4);
  scratch_.sums = std::make_unique<LazyMemory>(rows * groups * 4);
  scratch_.outliers = std::make_unique<LazyMemory>(rows * groups * sizeof(Outlier));
  scratch_.num_outliers = std::make_unique<LazyMemory>(rows * sizeof(std::uint32_t));
  scratch_.partials = std::make_unique<LazyMemory>(partials * 4);
  scratch_.quantized = {reinterpret_cast<std::int8_t*>(scratch_.codes->data()),
                        scratch_.scales->floats(), scratch_.sums->floats(),
                        reinterpret_cast<Outlier*>(scratch_.outliers->data()),
                        reinterpret_cast<std::uint32_t*>(scratch_.num_outliers->data()), 0};
  scratch_.positions.resize(limits_.step_tokens);
  scratch_.sequence_of.resize(limits_.step_tokens);
  is_finished_ = true;
}

void Program::check(const Step& step) const {
  require(is_finished_, "the program is not finished: call finish() first.");
  require(!step.tokens.empty() && step.tokens.size() <= limits_.step_tokens,
          "a step of " + std::to_string(step.tokens.size()) + " tokens; 1 to " +
              std::to_string(limits_.step_tokens) + " fit.");
  require(step.logit_rows.size() <= limits_.logit_rows,
          std::to_string(step.logit_rows.size()) + " logit rows; at most " +
              std::to_string(limits_.logit_rows) + " fit.");
  const auto below = [](auto value, std::size_t end) {
    return value >= 0 && static_cast<std::size_t>(value) < end;
  };
  for (const auto token : step.tokens) {
    require(below(token, limits_.vocabulary), "token id " + std::to_string(token) +
                                                  " is outside the vocabulary of " +
                                                  std::to_string(limits_.vocabulary) + ".");
  }
  for (const auto row : step.logit_rows) {
    require(below(row, step.tokens.size()), "logit row " + std::to_string(row) + " of a step of " +
                                                std::to_string(step.tokens.size()) + " tokens.");
  }
  for (const auto row : step.injection.rows) {
    require(below(row, step.tokens.size()), "injected row " + std::to_string(row) +
                                                " of a step of " +
                                                std::to_string(step.tokens.size()) + " tokens.");
  }
  std::size_t covered = 0;
  for (const Sequence& sequence : step.sequences) {
    require(sequence.first_token == covered && sequence.num_tokens > 0,
            "sequences must cover the step's tokens in order.");
    covered += sequence.num_tokens;
    const std::size_t end = sequence.start + sequence.num_tokens;
    require(end <= limits_.context, "position " + std::to_string(end - 1) +
                                        " is outside the context of " +
                                        std::to_string(limits_.context) + ".");
    for (std::size_t i = 0; i < (end + kBlockTokens - 1) / kBlockTokens; ++i) {
      require(below(sequence.blocks[i], limits_.cache_blocks),
              "cache block " + std::to_string(sequence.blocks[i]) + " of " +
                  std::to_string(limits_.cache_blocks) + ".");
    }
  }
  require(covered == step.tokens.size(), "sequences must cover the step's tokens in order.");
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
  Context context{kernels_, *pool_, step, scratch_, cache_, buffers_};
  for (const auto& op : ops_) op->run(context);
}

}  // namespace yearling
