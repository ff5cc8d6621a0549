<?php

namespace TokensModel;

use Closure;
use Illuminate\Auth\Access\AuthorizationException;
use Illuminate\Auth\AuthenticationException;
use Illuminate\Http\Request;

/** The middleware `abilities:a,b`. */
class RequireEveryAbility
{
    public function handle(Request $request, Closure $next, string ...$abilities)
    {
        if ($request->user()?->currentAccessToken() === null) {
            throw new AuthenticationException;
        }
        if (! $this->suffices(array_map([$request->user(), 'tokenCan'], $abilities))) {
            throw new AuthorizationException;
        }

        return $next($request);
    }

    /** By which of the abilities the token has. */
    protected function suffices(array $has): bool
    {
        return ! in_array(false, $has, true);
    }
}
