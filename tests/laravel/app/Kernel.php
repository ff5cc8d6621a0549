<?php

namespace App;

use Illuminate\Foundation\Http\Middleware\ConvertEmptyStringsToNull;
use Illuminate\Foundation\Http\Middleware\TrimStrings;
use Illuminate\Foundation\Http\Middleware\ValidatePostSize;
use Illuminate\Http\Middleware\TrustProxies;

class Kernel extends \Illuminate\Foundation\Http\Kernel
{
    protected $middleware = [
        TrustEveryone::class,
        ValidatePostSize::class,
        TrimStrings::class,
        ConvertEmptyStringsToNull::class,
    ];
}

/** The only one that can ask is nginx. */
class TrustEveryone extends TrustProxies
{
    protected $proxies = '*';
}
