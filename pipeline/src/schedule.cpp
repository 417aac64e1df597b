#include "thinwire/pipeline/schedule.hpp"
