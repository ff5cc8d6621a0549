<?php

// One request through the HTTP kernel.

$kernel = (require __DIR__.'/../bootstrap/app.php')->make(Illuminate\Contracts\Http\Kernel::class);
$request = Illuminate\Http\Request::capture();
$kernel->terminate($request, $kernel->handle($request)->send());
