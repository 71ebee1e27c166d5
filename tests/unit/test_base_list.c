/* SPDX-License-Identifier: Apache-2.0 */
#include "support.h"

#include "base/attr.h"
#include "base/list.h"

struct item {
    int value;
    struct list_node node;
};

static void assert_values(const struct list_node *head, const int *values, size_t count)
{
    const struct list_node *node = head->next;
    for (size_t i = 0; i < count; i++, node = node->next) {
        assert_ptr_not_equal(node, head);
        assert_int_equal(CONTAINER_OF(node, const struct item, node)->value, values[i]);
        assert_ptr_equal(node->prev->next, node);
        assert_ptr_equal(node->next->prev, node);
    }
    assert_ptr_equal(node, head);
}

static void list_keeps_order_at_both_ends_and_in_the_middle(void **state)
{
    (void)state;
    struct list_node head;
    struct item items[4] = {{.value = 0}, {.value = 1}, {.value = 2}, {.value = 3}};
    list_init(&head);
    assert_true(list_is_empty(&head));
    list_push_back(&head, &items[1].node);
    list_push_back(&head, &items[3].node);
    list_push_front(&head, &items[0].node);
    list_insert_after(&items[1].node, &items[2].node);
    assert_values(&head, (const int[]){0, 1, 2, 3}, 4);
    assert_false(list_is_empty(&head));
}

static void list_remove_unlinks_and_may_be_repeated(void **state)
{
    (void)state;
    struct list_node head;
    struct item items[3] = {{.value = 0}, {.value = 1}, {.value = 2}};
    list_init(&head);
    for (int i = 0; i < 3; i++) {
        list_push_back(&head, &items[i].node);
    }
    list_remove(&items[1].node);
    list_remove(&items[1].node);
    assert_true(list_is_empty(&items[1].node));
    assert_values(&head, (const int[]){0, 2}, 2);
    list_remove(&items[0].node);
    list_remove(&items[2].node);
    assert_true(list_is_empty(&head));
    list_push_front(&head, &items[1].node);
    assert_values(&head, (const int[]){1}, 1);
}

static void attr_arithmetic_rounds_and_compares(void **state)
{
    (void)state;
    assert_int_equal(align_up(0, 4096), 0);
    assert_int_equal(align_up(1, 4096), 4096);
    assert_int_equal(align_up(4096, 4096), 4096);
    assert_int_equal(align_down(4097, 4096), 4096);
    assert_int_equal(div_round_up(10, 3), 4);
    assert_int_equal(div_round_up(9, 3), 3);
    assert_false(is_power_of_two(0));
    assert_true(is_power_of_two(1));
    assert_true(is_power_of_two(UINT64_C(1) << 63));
    assert_false(is_power_of_two(12));
    assert_int_equal(u64_min(1, 2), 1);
    assert_int_equal(u64_max(1, 2), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(list_keeps_order_at_both_ends_and_in_the_middle),
        cmocka_unit_test(list_remove_unlinks_and_may_be_repeated),
        cmocka_unit_test(attr_arithmetic_rounds_and_compares),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
