// Sixteen floats, as two times eight lanes. Included inside an anonymous namespace, like body.hpp.

struct Pair {
  Lanes low, high;
};
inline Pair load_pair(const float* from) { return {load(from), load(from + kLanes)}; }
inline Pair load_half_pair(const std::uint16_t* from) {
  return {load_half(from), load_half(from + kLanes)};
}
inline void store_pair(float* to, Pair x) {
  store(to, x.low);
  store(to + kLanes, x.high);
}
inline Pair broadcast_pair(float x) { return {broadcast(x), broadcast(x)}; }
inline Pair add(Pair a, Pair b) { return {a.low + b.low, a.high + b.high}; }
inline Pair multiply(Pair a, Pair b) { return {a.low * b.low, a.high * b.high}; }
inline Pair fma(Pair a, Pair b, Pair c) {
  return {fma(a.low, b.low, c.low), fma(a.high, b.high, c.high)};
}
inline Pair maximum(Pair a, Pair b) { return {maximum(a.low, b.low), maximum(a.high, b.high)}; }
inline Pair magnitude(Pair x) {
  return maximum(x, {broadcast(0.0f) - x.low, broadcast(0.0f) - x.high});
}

// The widest registers for work on single entries.
using Widest = Lanes;
inline constexpr std::size_t kWidest = kLanes;
inline Widest load_widest(const float* from) { return load(from); }
template <typename V>
inline V fill(float x) {
  return broadcast(x);
}
