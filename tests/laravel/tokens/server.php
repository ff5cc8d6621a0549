<?php

// The script of PHP's own server: every path is the application's.

$kernel = (require __DIR__.'/bootstrap/app.php')->make(Illuminate\Contracts\Http\Kernel::class);
$request = Illuminate\Http\Request::capture();
$kernel->terminate($request, $kernel->handle($request)->send());
