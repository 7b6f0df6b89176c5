// Tiles of a processor's matrix unit (AMX): 8 registers, each a square of 16 rows of 16 words. A
// word holds four bytes or two bfloat16 numbers. I2F_TILES says that the tier has them.
#pragma once

#include "kernels/dot.h"

#if defined(I2F_EMULATED_amx_tile)
#include "kernels/tile_model.h"
#define I2F_TILES
namespace i2f::I2F_TIER {
using Tiles = TileModel;
}
#elif defined(__AMX_TILE__) || defined(__AMXTILE__)  // older Clang spells it so
#define I2F_TILES

namespace i2f::I2F_TIER {

// The tiles of the thread that holds this object: set up when it is made, given back when it goes,
// so that none is left for the system to save. A thread holds one such object at a time. The system
// must have granted tiles to the process, or the first instruction ends it (cpu_grants_tiles).
//
// The compiler knows nothing of the registers: each statement is volatile, so that their order
// stays, and those that read or write memory say so. `stride` counts words, any address will do.
class Tiles {
 public:
  Tiles() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};  // the last eight must be 0
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};        // these, too
    } layout;
    static_assert(sizeof layout == 64, "what ldtilecfg reads");
    asm volatile("ldtilecfg %0" : : "m"(layout) : "memory");
  }
  ~Tiles() { asm volatile("tilerelease" : : : "memory"); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

  template <int kTile>
  void zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
  }
  template <int kTile>
  void load(const uint32_t* from, int64_t stride) {
    asm volatile("tileloadd (%1,%2,1), %%tmm%c0"
                 :
                 : "i"(kTile), "r"(from), "r"(stride * int64_t{sizeof(uint32_t)})
                 : "memory");
  }
  // The same of what the first cache need not keep.
  template <int kTile>
  void load_once(const uint32_t* from, int64_t stride) {
    asm volatile("tileloaddt1 (%1,%2,1), %%tmm%c0"
                 :
                 : "i"(kTile), "r"(from), "r"(stride * int64_t{sizeof(uint32_t)})
                 : "memory");
  }
  template <int kTile>
  void store(uint32_t* to, int64_t stride) {
    asm volatile("tilestored %%tmm%c0, (%1,%2,1)"
                 :
                 : "i"(kTile), "r"(to), "r"(stride * int64_t{sizeof(uint32_t)})
                 : "memory");
  }
  // sums [m, n] += the unsigned bytes of x [m, k] times the signed bytes of w [k, n], modulo 2^32.
  // The three tiles are different ones.
  template <int kSums, int kX, int kW>
  void add_bytes() {
    asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kX), "i"(kW));
  }
  // The same of bfloat16 numbers. From zero, the products of the even numbers are added one after
  // the other, and so are those of the odd ones; then the two sums, and their sum joins `sums`.
  // Each step rounds once, to the nearest even; subnormal numbers are 0.
  template <int kSums, int kX, int kW>
  void add_bfloat16() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kX), "i"(kW));
  }
};

}  // namespace i2f::I2F_TIER
#endif

#ifdef I2F_TILES
namespace i2f::I2F_TIER {

constexpr int kTile = 16;              // rows, columns and words of a tile
constexpr int kWords = kTile * kTile;  // of a tile
constexpr int kDepth = 2 * kTile;      // bfloat16 numbers of a row of a tile
static_assert(kLanes == kTile, "a vector is a row of a tile");

}  // namespace i2f::I2F_TIER
#endif
