#include "thinwire/comm/buckets.hpp"
