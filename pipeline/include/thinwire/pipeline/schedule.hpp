#pragma once

namespace thinwire::pipeline {}
