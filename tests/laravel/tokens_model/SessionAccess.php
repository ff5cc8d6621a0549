<?php

namespace TokensModel;

/** In place of a token for a user with a session, who may do everything. */
final class SessionAccess
{
    public function can(): bool
    {
        return true;
    }
}
