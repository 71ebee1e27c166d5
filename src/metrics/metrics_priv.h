/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the metrics room. */
#ifndef METRICS_METRICS_PRIV_H
#define METRICS_METRICS_PRIV_H

#include "metrics/metrics.h"

/* Names that one text can tell apart: the registry's families, each with the three names of a
 * histogram, and room for those of others. */
#define METRICS_SEEN (4 * METRICS_FAMILIES_MAX + 256)

/* `a="b",c="d"`, escaped, at the end of the text. */
void metrics_format_labels(struct metrics_text *text, const struct metrics_label *labels,
                           size_t label_count);
/* As metrics_text_value, with labels that are made already. */
void metrics_text_made(struct metrics_text *text, const char *suffix, const char *labels,
                       const char *more, double value);

#endif
