<?php

namespace TokensModel;

/** The middleware `ability:a,b`. */
class RequireSomeAbility extends RequireEveryAbility
{
    protected function suffices(array $has): bool
    {
        return in_array(true, $has, true);
    }
}
