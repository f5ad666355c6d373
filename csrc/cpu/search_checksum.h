// A 64-bit checksum at memory speed, the same on every instruction set: stripes of 64 bytes are mixed into eight
// lanes by 32 x 32 bit products under a secret that changes with the place; after each block the lanes are
// scrambled, so that blocks can't be swapped either. Not for adversaries.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

namespace {

constexpr uint64_t kPrime = 0x9E3779B97F4A7C15u;

VTP_INLINE uint64_t stir(uint64_t h) {
  h ^= h >> 32;
  h *= 0xD6E8FEB86659FD93u;
  h ^= h >> 32;
  h *= 0xD6E8FEB86659FD93u;
  return h ^ h >> 32;
}

// For rows of a few values: four chains of products.
VTP_INLINE uint64_t checksum_short(const unsigned char* p, size_t count) {
  uint64_t lanes[4] = {kPrime, ~kPrime, kPrime << 7, kPrime >> 7};
  size_t at = 0, i = 0;
  for (; at + 8 <= count; at += 8, i = (i + 1) & 3) {
    uint64_t word;
    memcpy(&word, p + at, 8);
    lanes[i] = (lanes[i] ^ word) * kPrime;
    lanes[i] ^= lanes[i] >> 29;
  }
  uint64_t word = 0;
  memcpy(&word, p + at, count - at);
  uint64_t h = stir(word ^ count * kPrime);
  for (i = 0; i < 4; i++) h = stir(h ^ lanes[i]) + i;
  return h;
}

static uint64_t checksum(const void* bytes, size_t count) {
  enum { kStripe = 64, kStripes = 16 };
  const unsigned char* p = (const unsigned char*)bytes;
  if (count < 256) return checksum_short(p, count);
  uint64_t secret[kStripes + 8], lanes[8], last[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  for (int i = 0; i < kStripes + 8; i++) secret[i] = stir(kPrime * (uint64_t)(i + 1));
  for (int i = 0; i < 8; i++) lanes[i] = secret[i] ^ count;
  const size_t stripes = count / kStripe;
  Hash state = Hash::load(lanes);
  for (size_t block = 0; block < stripes; block += kStripes) {
    const size_t end = block + kStripes < stripes ? block + kStripes : stripes;
    for (size_t s = block; s < end; s++) {
      state = Hash::mix(state, Hash::load(p + s * kStripe), Hash::load(secret + (s - block)));
    }
    Hash::store(lanes, state);
    for (int i = 0; i < 8; i++) lanes[i] = ((lanes[i] ^ lanes[i] >> 47) ^ secret[8 + i]) * 0x9E3779B1u;
    state = Hash::load(lanes);
  }
  memcpy(last, p + stripes * kStripe, count - stripes * kStripe);
  state = Hash::mix(state, Hash::load(last), Hash::load(secret + 5));
  Hash::store(lanes, state);
  uint64_t h = count * kPrime;
  for (int i = 0; i < 8; i++) h = stir(h ^ lanes[i]) + (uint64_t)i;
  return h;
}

}  // namespace
