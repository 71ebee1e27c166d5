/* SPDX-License-Identifier: Apache-2.0 */
#include "base/signals.h"
#include "tools/tools.h"

int main(int argument_count, char **arguments)
{
    log_hold_streams();
    signals_drop_foreign();
    return (int)tool_main(argument_count > 0 ? argument_count - 1 : 0, arguments + 1);
}
