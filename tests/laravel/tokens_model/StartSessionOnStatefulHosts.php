<?php

namespace TokensModel;

use Closure;
use Illuminate\Cookie\Middleware\EncryptCookies;
use Illuminate\Http\Request;
use Illuminate\Pipeline\Pipeline;
use Illuminate\Session\Middleware\StartSession;

/** A request whose Referer or Origin is of `sanctum.stateful` has a session; any other has none. */
class StartSessionOnStatefulHosts
{
    public function handle(Request $request, Closure $next)
    {
        $from = parse_url($request->header('Referer') ?? $request->header('Origin') ?? '', PHP_URL_HOST);
        $middleware = in_array($from, (array) config('sanctum.stateful'), true)
            ? [EncryptCookies::class, StartSession::class]
            : [];

        return app(Pipeline::class)->send($request)->through($middleware)->then($next);
    }
}
