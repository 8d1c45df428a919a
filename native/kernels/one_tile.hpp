// Eight columns, one tile, at a time. Included inside an anonymous namespace, like body.hpp.

inline constexpr std::size_t kBlockTiles = 1;
using Columns = Lanes;
inline Columns broadcast_columns(float x) { return broadcast(x); }
inline Lanes tile_of(Columns x, std::size_t) { return x; }

template <typename Group>
struct Tiles {
  const Group* group[kBlockTiles];
  Tiles at(std::size_t index) const { return {{group[0] + index}}; }
};
template <typename Group>
inline Codes codes_of(const Tiles<Group>& tiles, std::size_t load) {
  return load_codes(tiles.group[0]->codes + load * 32);
}
template <typename Group>
inline Columns scales_of(const Tiles<Group>& tiles) {
  return load_half(tiles.group[0]->scale);
}
inline Columns minima_of(const Tiles<Int4Group>& tiles) {
  return load_half(tiles.group[0]->minimum);
}
template <typename Group>
inline Columns codes_of_input(const Tiles<Group>& tiles, std::size_t input) {
  return codes_of_input(*tiles.group[0], input);
}

// Eight lanes give products a sign without help.
using SignedCodes = Codes;
inline SignedCodes with_sign(const Codes& x) { return x; }
inline Wide empty_sum(std::int32_t) { return Wide{}; }
