#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace thinwire::pipeline {

/// What one cell of a schedule does. The letters of the text form stand beside.
enum class Kind : std::uint8_t {
  forward,           ///< F
  backward,          ///< B: input and weight gradient in one
  input_gradient,    ///< I
  weight_gradient,   ///< W
  send_forward,      ///< SEND_F: activation of this stage to the next one
  receive_forward,   ///< RECV_F: activation of the stage before
  send_backward,     ///< SEND_B: gradient of this stage's input to the stage before
  receive_backward,  ///< RECV_B: gradient from the next stage
  reduce_gradient,   ///< REDUCE_GRAD: data-parallel reduction of this stage's gradients
  unshard,           ///< UNSHARD: gather sharded parameters
  reshard,           ///< RESHARD: drop them again
};

/// F, B, I or W.
constexpr bool is_compute(Kind kind) { return kind <= Kind::weight_gradient; }
constexpr bool is_send(Kind kind) {
  return kind == Kind::send_forward || kind == Kind::send_backward;
}
constexpr bool is_receive(Kind kind) {
  return kind == Kind::receive_forward || kind == Kind::receive_backward;
}
/// Everything but REDUCE_GRAD, UNSHARD and RESHARD belongs to one micro-batch.
constexpr bool has_microbatch(Kind kind) { return kind <= Kind::receive_backward; }
/// B or I: what makes the gradient that the stage before waits for.
constexpr bool makes_input_gradient(Kind kind) {
  return kind == Kind::backward || kind == Kind::input_gradient;
}
/// B or W: what adds to the weight gradients.
constexpr bool makes_weight_gradient(Kind kind) {
  return kind == Kind::backward || kind == Kind::weight_gradient;
}

/// One entry of a rank's list. A value; 12 bytes.
struct Action {
  Kind kind = Kind::forward;
  bool joined = false;  ///< shares a cell with the next entry: (0F7;7B3)OVERLAP_F_B
  int stage = 0;
  int microbatch = -1;  ///< -1 where has_microbatch(kind) is false

  friend bool operator==(const Action&, const Action&) = default;
};

/// How letters are read. torch's golden files before 2.6 write B for the input gradient and BW for
/// the whole backward.
enum class Dialect { torch, torch_old };

/// "F", "SEND_F", "REDUCE_GRAD", ...
std::string_view to_string(Kind kind);

/// One action without its cell: "0F3", "2REDUCE_GRAD".
std::string to_string(const Action& action);

/// The actions of one cell, in order; empty for an empty (idle) cell, several for an overlapped
/// one. Throws FormatError that quotes the cell.
std::vector<Action> parse_cell(std::string_view cell, Dialect dialect = Dialect::torch);

}  // namespace thinwire::pipeline
