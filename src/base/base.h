/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The door of the base room: what every other room may lean on. It knows no other room.
 * Each header below opens with its own contract.
 */
#ifndef BASE_BASE_H
#define BASE_BASE_H

#include <umbp/status.h>

#include "base/attr.h"
#include "base/clock.h"
#include "base/copy.h"
#include "base/copy_pool.h"
#include "base/crc.h"
#include "base/hash.h"
#include "base/histogram.h"
#include "base/list.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/mutex.h"
#include "base/rng.h"
#include "base/thread.h"
#include "base/units.h"

#endif
