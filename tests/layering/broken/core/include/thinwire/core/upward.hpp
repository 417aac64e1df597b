#include "thinwire/comm/engine.hpp"
