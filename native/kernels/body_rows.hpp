// Functions of one row: transcendental functions, norms, activations; part of body.hpp.

// Up to eight floats; lanes beyond them are zero.
inline Lanes load_some(const float* from, std::size_t count) {
  if (count >= kLanes) return load(from);
  float lanes[kLanes] = {};
  std::memcpy(lanes, from, count * sizeof(float));
  return load(lanes);
}
inline void store_some(float* to, std::size_t count, Lanes x) {
  if (count >= kLanes) return store(to, x);
  float lanes[kLanes];
  store(lanes, x);
  std::memcpy(to, lanes, count * sizeof(float));
}

// ---- exponential -------------------------------------------------------------------------

// exp(x) to 2 units in the last place for x in [-87, 88]; clamped outside.
template <typename V>
inline V exponential(V x) {
  // This order of operands lets a NaN through.
  x = minimum(fill<V>(88.0f), maximum(fill<V>(-87.0f), x));
  const V n = round_lanes(x * fill<V>(1.44269504f));
  // log 2 in two parts, so that n · log 2 is exact to beyond float32.
  x = fma(n, fill<V>(-0.693359375f), x);
  x = fma(n, fill<V>(2.12194440e-4f), x);
  V p = fill<V>(1.9875691500e-4f);
  p = fma(p, x, fill<V>(1.3981999507e-3f));
  p = fma(p, x, fill<V>(8.3334519073e-3f));
  p = fma(p, x, fill<V>(4.1665795894e-2f));
  p = fma(p, x, fill<V>(1.6666665459e-1f));
  p = fma(p, x, fill<V>(5.0000001201e-1f));
  p = fma(p, x * x, x + fill<V>(1.0f));
  return scale_by_power(p, n);
}

// exp(x) for one value, by the same arithmetic as for eight.
inline float exponential_of(float x) {
  float lanes[kLanes];
  store(lanes, exponential(broadcast(x)));
  return lanes[0];
}

template <typename V>
inline V magnitude(V x) { return maximum(x, fill<V>(0.0f) - x); }

// tanh(x) to 2 units in the last place.
template <typename V>
inline V hyperbolic_tangent(V x) {
  const V size = magnitude(x), square = x * x;
  V p = fill<V>(-6.107135076e-3f);
  p = fma(p, square, fill<V>(2.100477507e-2f));
  p = fma(p, square, fill<V>(-5.385252134e-2f));
  p = fma(p, square, fill<V>(1.333277783e-1f));
  p = fma(p, square, fill<V>(-3.333332876e-1f));
  const V near = fma(p * square, x, x);
  const V one = fill<V>(1.0f);
  const V far = one - fill<V>(2.0f) / (exponential(size + size) + one);
  const V with_sign = where_less(x, fill<V>(0.0f), fill<V>(0.0f) - far, far);
  return where_less(size, fill<V>(0.625f), near, with_sign);
}

template <typename V>
inline V capped(V x, float cap) {
  return fill<V>(cap) * hyperbolic_tangent(x / fill<V>(cap));
}

// erfc(x) / 2 for x ≥ 0: exp(-x²) times a polynomial in 1 / (1 + 0.4x), fitted to 3e-8.
template <typename V>
inline V half_erfc(V x) {
  const V t = fill<V>(1.0f) / fma(x, fill<V>(0.4f), fill<V>(1.0f));
  V p = fill<V>(2.694251163e-2f);
  p = fma(p, t, fill<V>(-6.536250325e-2f));
  p = fma(p, t, fill<V>(-8.542614913e-2f));
  p = fma(p, t, fill<V>(3.043203475e-1f));
  p = fma(p, t, fill<V>(-9.190439819e-2f));
  p = fma(p, t, fill<V>(2.809507968e-1f));
  p = fma(p, t, fill<V>(1.732332701e-1f));
  p = fma(p, t, fill<V>(2.322361622e-1f));
  p = fma(p, t, fill<V>(2.249783031e-1f));
  p = fma(p, t, fill<V>(3.168636895e-5f));
  return p * fill<V>(0.5f) * exponential(fill<V>(0.0f) - x * x);
}

// log(1 + exp(x)), by log(1 + u) = 2 · artanh(u / (2 + u)).
inline Lanes softplus(Lanes x) {
  const Lanes u = exponential(broadcast(0.0f) - magnitude(x));
  const Lanes s = u / (broadcast(2.0f) + u), square = s * s;
  Lanes p = broadcast(2.819159691e-1f);
  p = fma(p, square, broadcast(2.795765308e-1f));
  p = fma(p, square, broadcast(4.002511542e-1f));
  p = fma(p, square, broadcast(6.666631011e-1f));
  p = fma(p, square, broadcast(2.000000008f));
  return fma(p, s, maximum(broadcast(0.0f), x));
}

// The largest of a few values; false when one of them is not finite.
inline bool largest_of(const float* values, std::size_t count, float* largest) {
  Widest most[4], poison[4];  // x - x is NaN for infinities and NaN
  for (std::size_t chain = 0; chain < 4; ++chain) {
    most[chain] = fill<Widest>(-std::numeric_limits<float>::infinity());
    poison[chain] = fill<Widest>(0.0f);
  }
  const auto add = [&](std::size_t chain, Widest x) {
    most[chain] = maximum(most[chain], x);
    poison[chain] = poison[chain] + (x - x);
  };
  std::size_t i = 0;
  for (; i + 4 * kWidest <= count; i += 4 * kWidest) {
    for (std::size_t chain = 0; chain < 4; ++chain) {
      add(chain, load_widest(values + i + chain * kWidest));
    }
  }
  for (; i + kWidest <= count; i += kWidest) add(0, load_widest(values + i));
  float lanes[kWidest], poisons[kWidest];
  store(lanes, maximum(maximum(most[0], most[1]), maximum(most[2], most[3])));
  store(poisons, (poison[0] + poison[1]) + (poison[2] + poison[3]));
  *largest = *std::max_element(lanes, lanes + kWidest);
  bool is_finite = std::all_of(poisons, poisons + kWidest, [](float x) { return x == 0.0f; });
  for (; i < count; ++i) {
    *largest = std::max(*largest, values[i]);
    is_finite = is_finite && std::isfinite(values[i]);
  }
  return is_finite;
}

// Part by part, so that only one part must be looked through for where its largest value lies.
bool arg_max(const float* values, std::size_t count, std::size_t* index) {
  constexpr std::size_t kPart = 1024;
  float best = -std::numeric_limits<float>::infinity();
  std::size_t part = 0;
  for (std::size_t first = 0; first < count; first += kPart) {
    float largest;
    if (!largest_of(values + first, std::min(kPart, count - first), &largest)) return false;
    if (first > 0 && largest <= best) continue;
    best = largest;
    part = first;
  }
  if (count == 0) return false;
  *index = static_cast<std::size_t>(std::find(values + part, values + count, best) - values);
  return true;
}

// A byte's bits as eight numbers.
constexpr auto kBits = [] {
  std::array<std::array<float, kLanes>, 256> table{};
  for (std::size_t byte = 0; byte < 256; ++byte) {
    for (std::size_t bit = 0; bit < kLanes; ++bit) {
      table[byte][bit] = static_cast<float>(byte >> bit & 1);
    }
  }
  return table;
}();

void keep_marked(float* values, std::size_t count, const std::uint32_t* marks, float other) {
  for (std::size_t i = 0; i < count; i += kLanes) {
    const std::uint32_t byte = marks[i / 32] >> i % 32 & 255;
    if (byte == 255) continue;
    const std::size_t here = std::min(kLanes, count - i);
    const Lanes kept = where_less(load(kBits[byte].data()), broadcast(0.5f), broadcast(other),
                                  load_some(values + i, here));
    store_some(values + i, here, kept);
  }
}

void sum_runs(const float* values, std::size_t count, float* sums) {
  for (; count >= kSumRun; count -= kSumRun, values += kSumRun) {
    Lanes chains[4] = {};
    for (std::size_t i = 0; i < kSumRun; i += 4 * kLanes) {
      for (std::size_t chain = 0; chain < 4; ++chain) {
        chains[chain] = chains[chain] + load(values + i + chain * kLanes);
      }
    }
    *sums++ = sum_lanes((chains[0] + chains[1]) + (chains[2] + chains[3]));
  }
  if (count > 0) *sums = std::accumulate(values, values + count, 0.0f);
}

// ---- norms -------------------------------------------------------------------------------

void rms_norm(const float* in, const float* weight, float epsilon, std::size_t width, float* out) {
  const float mean_square = sum_of_squares(in, width) / static_cast<float>(width);
  const float scale = 1.0f / std::sqrt(mean_square + epsilon);
  std::size_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    store(out + i, load(in + i) * broadcast(scale) * load(weight + i));
  }
  for (; i < width; ++i) out[i] = in[i] * scale * weight[i];
}

void layer_norm(const float* in, const float* weight, const float* bias, float epsilon,
                std::size_t width, float* out) {
  const float count = static_cast<float>(width);
  std::size_t i = 0;
  Lanes totals = broadcast(0.0f), squares = broadcast(0.0f);
  for (; i + kLanes <= width; i += kLanes) totals = totals + load(in + i);
  float total = sum_lanes(totals);
  for (; i < width; ++i) total += in[i];
  const float mean = total / count;
  for (i = 0; i + kLanes <= width; i += kLanes) {
    const Lanes x = load(in + i) - broadcast(mean);
    squares = fma(x, x, squares);
  }
  float square = sum_lanes(squares);
  for (; i < width; ++i) square = scalar_fma(in[i] - mean, in[i] - mean, square);
  const float scale = 1.0f / std::sqrt(square / count + epsilon);
  for (i = 0; i + kLanes <= width; i += kLanes) {
    const Lanes x = (load(in + i) - broadcast(mean)) * broadcast(scale) * load(weight + i);
    store(out + i, bias ? x + load(bias + i) : x);
  }
  for (; i < width; ++i) {
    const float x = (in[i] - mean) * scale * weight[i];
    out[i] = bias ? x + bias[i] : x;
  }
}

// ---- codes of a row ----------------------------------------------------------------------

// The scale's last 16 bits are cut off, so that codes do not hang on the order of additions.
inline float scale_of(const float* in, std::size_t inputs, float reach) {
  constexpr std::size_t kWidth = 2 * kLanes;
  Pair sums[4], most[4];
  for (std::size_t chain = 0; chain < 4; ++chain) sums[chain] = most[chain] = broadcast_pair(0.0f);
  std::size_t i = 0;
  const auto take = [&](std::size_t chain) {
    const Pair size = magnitude(load_pair(in + i + chain * kWidth));
    sums[chain] = add(sums[chain], size);
    most[chain] = maximum(size, most[chain]);
  };
  for (; i + 4 * kWidth <= inputs; i += 4 * kWidth) {
    for (std::size_t chain = 0; chain < 4; ++chain) take(chain);
  }
  for (; i + kWidth <= inputs; i += kWidth) take(0);
  float sum_of[kWidth], largest_of[kWidth];
  store_pair(sum_of, add(add(sums[0], sums[1]), add(sums[2], sums[3])));
  store_pair(largest_of, maximum(maximum(most[0], most[1]), maximum(most[2], most[3])));
  float total = std::accumulate(sum_of, sum_of + kWidth, 0.0f);
  float largest = *std::max_element(largest_of, largest_of + kWidth);
  for (; i < inputs; ++i) {
    total += std::fabs(in[i]);
    largest = std::max(largest, std::fabs(in[i]));
  }
  const float usual = total * (reach / 127.0f) / static_cast<float>(inputs);
  const float scale = largest > usual * kMostCode ? largest / kMostCode : usual;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(scale) & 0xffff0000u);
}

void quantize_row(const float* in, std::size_t inputs, float reach, QuantizedRows rows,
                  std::size_t row) {
  const float scale = scale_of(in, inputs, reach);
  rows.scales[row] = scale;
  // A broken row must not quantise to a sound one, but its scale says it all.
  const bool is_usable = std::isnormal(scale) && std::isfinite(1.0f / scale);
  const float inverse = is_usable ? 1.0f / scale : 0.0f;
  QuantizedGroup* to = rows.row(row);
  for (std::size_t panel = 0; panel < rows.panels(); ++panel) {
    PanelHighs& highs = rows.highs_of(row, panel);
    highs.count = 0;
    const std::size_t end = std::min(rows.row_groups - panel * kPanelGroups, kPanelGroups);
    for (std::size_t g = 0; g < end; ++g, ++to) {
      const std::size_t begin = (panel * kPanelGroups + g) * kGroup;
      float padded[kGroup];
      const float* group = in + begin;
      if (const std::size_t count = inputs - begin; count < kGroup) {
        std::fill(std::copy_n(group, count, padded), padded + kGroup, 0.0f);
        group = padded;
      }
      quantize_group(group, inverse, *to, g * kGroupFours, highs);
    }
  }
}

// ---- entries -----------------------------------------------------------------------------

// out[i] = function(in[i]), as many at a time as a register holds; the last few by the same
// arithmetic.
template <typename Function>
inline void map_lanes(const float* in, std::size_t width, float* out, Function&& function) {
  std::size_t i = 0;
  for (; i + kWidest <= width; i += kWidest) store(out + i, function(load_widest(in + i)));
  for (; i + kLanes <= width; i += kLanes) store(out + i, function(load(in + i)));
  if (i < width) store_some(out + i, width - i, function(load_some(in + i, width - i)));
}

void exponentials(const float* in, std::size_t count, float most, float factor, float* out) {
  map_lanes(in, count, out, [=]<typename V>(V x) {
    return exponential((x - fill<V>(most)) * fill<V>(factor));
  });
}

void scale(const float* in, float factor, std::size_t width, float* out) {
  map_lanes(in, width, out, [=]<typename V>(V x) { return x * fill<V>(factor); });
}

void add_scaled(const float* in, float factor, std::size_t width, float* out) {
  std::size_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    store(out + i, fma(load(in + i), broadcast(factor), load(out + i)));
  }
  for (; i < width; ++i) out[i] = scalar_fma(in[i], factor, out[i]);
}

// This order of operands lets a NaN through.
void clamp(float* values, float limit, std::size_t width) {
  map_lanes(values, width, values, [=]<typename V>(V x) {
    return minimum(fill<V>(limit), maximum(fill<V>(-limit), x));
  });
}

void soft_cap(float* values, float cap, std::size_t width) {
  map_lanes(values, width, values, [=]<typename V>(V x) { return capped(x, cap); });
}

struct Silu {
  template <typename V>
  static V of(V x) { return x / (fill<V>(1.0f) + exponential(fill<V>(0.0f) - x)); }
};
struct Gelu {
  template <typename V>
  static V of(V x) {
    // x · Φ(x); the tail of the normal distribution keeps its relative precision for x < 0.
    const V tail = half_erfc(magnitude(x) * fill<V>(0.70710678f));
    return x * where_less(x, fill<V>(0.0f), tail, fill<V>(1.0f) - tail);
  }
};
struct GeluTanh {
  template <typename V>
  static V of(V x) {
    // 1/2 · (1 + tanh(u)) is the logistic function of 2u.
    const V cubic = fma(x * x * x, fill<V>(0.044715f), x);
    const V twice = cubic * fill<V>(1.59576912f);  // 2 · √(2/π)
    return x / (fill<V>(1.0f) + exponential(fill<V>(0.0f) - twice));
  }
};
struct Relu {
  template <typename V>
  static V of(V x) { return maximum(fill<V>(0.0f), x); }
};
struct ReluSquared {
  template <typename V>
  static V of(V x) { return Relu::of(x) * Relu::of(x); }
};
struct QuickGelu {
  template <typename V>
  static V of(V x) {
    return x / (fill<V>(1.0f) + exponential(x * fill<V>(-1.702f)));
  }
};

template <typename Activation>
void activate(float* values, std::size_t width) {
  map_lanes(values, width, values, []<typename V>(V x) { return Activation::of(x); });
}

template <typename Activation>
void gate(const float* first, const float* second, std::size_t width, float* out) {
  std::size_t i = 0;
  for (; i + kWidest <= width; i += kWidest) {
    store(out + i, Activation::of(load_widest(first + i)) * load_widest(second + i));
  }
  for (; i + kLanes <= width; i += kLanes) {
    store(out + i, Activation::of(load(first + i)) * load(second + i));
  }
  if (i < width) {
    const std::size_t rest = width - i;
    store_some(out + i, rest,
               Activation::of(load_some(first + i, rest)) * load_some(second + i, rest));
  }
}

// ---- rotary ------------------------------------------------------------------------------

void rotate_half(float* head, const float* cosine, const float* sine, std::size_t half) {
  std::size_t i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    const Lanes x = load(head + i), y = load(head + half + i);
    const Lanes c = load(cosine + i), s = load(sine + i);
    store(head + i, x * c - y * s);
    store(head + half + i, y * c + x * s);
  }
  for (; i < half; ++i) {
    const float x = head[i], y = head[half + i];
    head[i] = x * cosine[i] - y * sine[i];
    head[half + i] = y * cosine[i] + x * sine[i];
  }
}

void rotate_interleaved(float* head, const float* cosine, const float* sine, std::size_t half) {
  for (std::size_t i = 0; i < half; ++i) {
    const float x = head[2 * i], y = head[2 * i + 1];
    head[2 * i] = x * cosine[i] - y * sine[i];
    head[2 * i + 1] = y * cosine[i] + x * sine[i];
  }
}
