/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/tools.h"

int main(int argument_count, char **arguments)
{
    log_hold_streams();
    return (int)tool_main(argument_count > 0 ? argument_count - 1 : 0, arguments + 1);
}
