<?php

// The skeleton of `laravel new`, with the real Sanctum, and without what tokens do not use.

require '/usr/share/php/Illuminate/autoload.php';
require_once '/usr/share/php/GuzzleHttp/autoload.php';

spl_autoload_register(function (string $class) {
    foreach (['App\\' => __DIR__.'/../app/', 'Laravel\\Sanctum\\' => __DIR__.'/../sanctum/src/'] as $prefix => $directory) {
        $file = $directory.str_replace('\\', '/', substr($class, strlen($prefix))).'.php';
        if (str_starts_with($class, $prefix) && is_file($file)) {
            require $file;
        }
    }
});

$app = new Illuminate\Foundation\Application(dirname(__DIR__));
$app->singleton(Illuminate\Contracts\Http\Kernel::class, App\Http\Kernel::class);
$app->singleton(Illuminate\Contracts\Debug\ExceptionHandler::class, App\Exceptions\Handler::class);

return $app;
