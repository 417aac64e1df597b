#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

/// The one error vocabulary of thinwire. Everything that fails throws a type of this page; its
/// message names rank, operation and sizes where they are known, and says what to do.
namespace thinwire {

/// Base of every error that thinwire throws.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The caller passed something that can never work (a density of 2, a null view, a bad name).
class InvalidArgument : public Error {
 public:
  using Error::Error;
};

/// A memory request went over a limit, or the system had none left. Nothing was lost: the state
/// of the object that asked is what it was before.
class OutOfMemory : public Error {
 public:
  OutOfMemory(std::string_view tag, std::size_t requested, std::size_t in_use, std::size_t limit);

  std::size_t requested;  ///< bytes asked for
  std::size_t in_use;     ///< bytes in use when asked
  std::size_t limit;      ///< the budget in bytes; 0 if the system itself refused
};

/// Bytes from a peer or a file are not what the format says (truncated, corrupt, other version).
/// `peer` is the rank that sent them, or -1 if no rank did.
class FormatError : public Error {
 public:
  explicit FormatError(const std::string& message, int peer = -1);

  int peer;
};

/// A file is missing or cannot be read or written.
class IoError : public Error {
 public:
  using Error::Error;
};

/// Two ranks disagree on something that must be equal. Raised on every rank of the communicator.
class MismatchError : public Error {
 public:
  /// `field`: what differs; `mine` and `theirs`: both values as text; `peer`: the other rank.
  MismatchError(std::string_view context, std::string_view field, std::string_view mine,
                std::string_view theirs, int peer);

  std::string field;
  std::string mine;
  std::string theirs;
  int peer;
};

/// A NaN or Inf was found and the policy is `raise`.
class NonFiniteError : public Error {
 public:
  using Error::Error;
};

/// A transport failed. `peer` is the culprit where it is known, else -1.
class TransportError : public Error {
 public:
  explicit TransportError(const std::string& message, int peer = -1);

  int peer;
};

/// A wait ran out of time. `peer` is the rank waited for where it is known, else -1.
class TimeoutError : public TransportError {
 public:
  using TransportError::TransportError;
};

/// The communicator was aborted, here or on a peer; `peer` is the rank that failed first.
class AbortedError : public TransportError {
 public:
  using TransportError::TransportError;
};

namespace detail {
/// "message (file:line)": the place stands last, so that the reason is read first.
/// (std::source_location would do, but clang has it from 15 on only.)
std::string with_location(std::string_view message, std::string_view file, int line);
}  // namespace detail

/// Throws `ErrorType` unless `condition`; the message is only built when it fails.
#define THINWIRE_EXPECTS(condition, ErrorType, message) \
  do {                                                  \
    if (!(condition)) [[unlikely]]                      \
      throw ErrorType{(message)};                       \
  } while (false)

/// Throws std::logic_error for a state that thinwire itself must never reach.
#define THINWIRE_ASSERT(condition)                                                                \
  do {                                                                                            \
    if (!(condition)) [[unlikely]]                                                                \
      throw std::logic_error{                                                                     \
          ::thinwire::detail::with_location("thinwire defect: " #condition, __FILE__, __LINE__)}; \
  } while (false)

}  // namespace thinwire
